#include "gru_instances.hpp"

namespace crrl::gru_cuda {

const ForwardCandidates& forward_fp32() {
  static const ForwardCandidates candidates = forward_candidates<FP32, float>();
  return candidates;
}

const BackwardCandidates& backward_fp32() {
  static const BackwardCandidates candidates = backward_candidates<FP32, float>();
  return candidates;
}

}  // namespace crrl::gru_cuda
