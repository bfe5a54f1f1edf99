#include "linear.hpp"

#include <stdexcept>
#include <string>

#include "isa.hpp"

namespace crrl {

#define CRRL_DECLARE(isa)                \
  namespace isa {                        \
  void linear_epoch(const LinearEpoch&); \
  }
CRRL_EACH_ISA(CRRL_DECLARE)

namespace {

void check(const LinearEpoch& p) {
  if (p.features < 1 || p.classes < 1 || p.batch < 1 || p.count < 0) {
    throw std::invalid_argument("a linear classifier needs at least one feature, class and clip a step");
  }
  for (int64_t i = 0; i < p.count; ++i) {
    const int64_t clip = p.order[i];
    if (clip < 0 || clip >= p.clips) {
      throw std::invalid_argument("place " + std::to_string(i) + ": " + std::to_string(clip) + " is not one of the " +
                                  std::to_string(p.clips) + " clips");
    }
    if (p.labels[clip] < 0 || p.labels[clip] >= p.classes) {
      throw std::invalid_argument("clip " + std::to_string(clip) + ": label " + std::to_string(p.labels[clip]) +
                                  " is not one of the " + std::to_string(p.classes) + " classes");
    }
  }
}

}  // namespace

void linear_epoch(const LinearEpoch& params, const char* isa) {
  static constexpr IsaKernels<void (*)(const LinearEpoch&)> kernels = CRRL_KERNELS(linear_epoch);
  check(params);
  choose(kernels, isa)(params);
}

}  // namespace crrl
