#include "step.hpp"

#include <stdexcept>

#include "isa.hpp"

namespace crrl {

#define CRRL_DECLARE(isa)                         \
  namespace isa {                                 \
  void ema_update(const EmaUpdate&, int threads); \
  void flat_step(const FlatStep&, int threads);   \
  }
CRRL_EACH_ISA(CRRL_DECLARE)

namespace {

void check(const EmaUpdate& p, int threads) {
  if (p.size < 0 || p.boundary < 0 || p.boundary > p.size || threads < 1) {
    throw std::invalid_argument("boundary must be in 0..N, with at least one thread");
  }
}

}  // namespace

void ema_update(const EmaUpdate& params, int threads, const char* isa) {
  static constexpr IsaKernels<void (*)(const EmaUpdate&, int)> kernels = CRRL_KERNELS(ema_update);
  check(params, threads);
  choose(kernels, isa)(params, threads);
}

void flat_step(const FlatStep& params, int threads, const char* isa) {
  static constexpr IsaKernels<void (*)(const FlatStep&, int)> kernels = CRRL_KERNELS(flat_step);
  FlatStep whole = params;
  whole.ema.size = params.size;
  whole.ema.queries = params.parameters;
  check(whole.ema, threads);
  choose(kernels, isa)(whole, threads);
}

}  // namespace crrl
