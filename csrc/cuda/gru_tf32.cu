#include "gru_instances.hpp"

namespace crrl::gru_cuda {

const ForwardCandidates& forward_tf32() {
  static const ForwardCandidates candidates = forward_candidates<Matrix<TF32>, float>();
  return candidates;
}

const BackwardCandidates& backward_tf32() {
  static const BackwardCandidates candidates = backward_candidates<Matrix<TF32>, float>();
  return candidates;
}

}  // namespace crrl::gru_cuda
