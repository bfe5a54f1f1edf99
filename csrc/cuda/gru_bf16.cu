#include "gru_instances.hpp"

namespace crrl::gru_cuda {

const Candidates& candidates_bf16() {
  static const Candidates candidates = all_candidates<Matrix<BF16>, Matrix<BF16>, gpu::BFloat16>();
  return candidates;
}

}  // namespace crrl::gru_cuda
