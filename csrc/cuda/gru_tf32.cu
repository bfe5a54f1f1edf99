#include "gru_instances.hpp"

namespace crrl::gru_cuda {

const Candidates& candidates_tf32() {
  static const Candidates candidates = all_candidates<Matrix<TF32>, Matrix<TF32>, float>();
  return candidates;
}

}  // namespace crrl::gru_cuda
