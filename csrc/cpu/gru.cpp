#include "gru.hpp"

#include <stdexcept>
#include <string>

namespace crrl {

#if defined(__x86_64__)
namespace avx512 {
void forward(const GruForwardParams& params, int threads);
void backward(const GruBackwardParams& params, int threads);
}  // namespace avx512
namespace avx2 {
void forward(const GruForwardParams& params, int threads);
void backward(const GruBackwardParams& params, int threads);
}  // namespace avx2
#endif
namespace plain {
void forward(const GruForwardParams& params, int threads);
void backward(const GruBackwardParams& params, int threads);
}  // namespace plain

namespace {

struct Kernels {
  const char* name;
  bool available;
  void (*forward)(const GruForwardParams&, int);
  void (*backward)(const GruBackwardParams&, int);
};

const Kernels kKernels[] = {
#if defined(__x86_64__)
    {"avx512",
     __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"),
     avx512::forward, avx512::backward},
    {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), avx2::forward, avx2::backward},
#endif
    {"plain", true, plain::forward, plain::backward},
};

const Kernels& choose(const char* isa) {
  for (const Kernels& kernels : kKernels) {
    if (isa == nullptr ? kernels.available : kernels.name == std::string(isa)) {
      if (kernels.available) return kernels;
      throw std::invalid_argument("this processor has no " + std::string(isa));
    }
  }
  throw std::invalid_argument("no instruction set named " + std::string(isa));
}

void check(const GruShape& s, int threads) {
  if (s.steps < 0 || s.frames < 0 || s.batch < 1 || s.hidden < 1 || s.directions < 1 || s.directions > 2 ||
      threads < 1) {
    throw std::invalid_argument("a size of the GRU layer is out of range");
  }
  int64_t frames = 0, before = s.batch;
  for (int64_t t = 0; t < s.steps; ++t) {
    if (s.active[t] < 1 || s.active[t] > before || s.starts[t] != frames) {
      throw std::invalid_argument("frame " + std::to_string(t) + ": the rows are not packed by falling length");
    }
    before = s.active[t];
    frames += s.active[t];
  }
  if (frames != s.frames) {
    throw std::invalid_argument("the rows have " + std::to_string(frames) + " frames, not " + std::to_string(s.frames));
  }
}

}  // namespace

const char* gru_isa() { return choose(nullptr).name; }

void gru_forward(const GruForwardParams& params, int threads, const char* isa) {
  check(params.shape, threads);
  choose(isa).forward(params, threads);
}

void gru_backward(const GruBackwardParams& params, int threads, const char* isa) {
  check(params.shape, threads);
  choose(isa).backward(params, threads);
}

}  // namespace crrl
