#include "gru_instances.hpp"

namespace crrl::gru_cuda {

const ForwardCandidates& forward_bf16() {
  static const ForwardCandidates candidates = forward_candidates<Matrix<BF16>, gpu::BFloat16>();
  return candidates;
}

const BackwardCandidates& backward_bf16() {
  static const BackwardCandidates candidates = backward_candidates<Matrix<BF16>, gpu::BFloat16>();
  return candidates;
}

}  // namespace crrl::gru_cuda
