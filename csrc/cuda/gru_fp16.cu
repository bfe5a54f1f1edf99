#include "gru_instances.hpp"

namespace crrl::gru_cuda {

const ForwardCandidates& forward_fp16() {
  static const ForwardCandidates candidates = forward_candidates<Matrix<FP16>, gpu::Half>();
  return candidates;
}

const BackwardCandidates& backward_fp16() {
  // TF32 products: gradients underflow in float16.
  static const BackwardCandidates candidates = backward_candidates<Matrix<TF32>, gpu::Half>();
  return candidates;
}

}  // namespace crrl::gru_cuda
