#include "gru_instances.hpp"

namespace crrl::gru_cuda {

// The backward pass uses TF32, as gradients underflow in float16.
const Candidates& candidates_fp16() {
  static const Candidates candidates = all_candidates<Matrix<FP16>, Matrix<TF32>, gpu::Half>();
  return candidates;
}

}  // namespace crrl::gru_cuda
