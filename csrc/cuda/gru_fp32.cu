#include "gru_instances.hpp"

namespace crrl::gru_cuda {

const Candidates& candidates_fp32() {
  static const Candidates candidates = all_candidates<FP32, FP32, float>();
  return candidates;
}

}  // namespace crrl::gru_cuda
