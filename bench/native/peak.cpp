// What this processor's arithmetic units reach at most, measured: the ceiling that the bench states its figures
// against. A Python module by itself.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "amx.hpp"
#include "isa.hpp"
#include "parallel.hpp"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace crrl {
namespace {

// Each loop below keeps `kChains` sums in registers that do not wait for one another: more than latency times units.
// x <- x a + b with a < 1 stays near b / (1 - a): no infinities and no denormals, which would be slower.
constexpr float kFactor = 0.5f, kTerm = 1.0f;

typedef float Plain __attribute__((vector_size(16)));  // as in gru_plain.cpp: what any processor has, or does without

template <int kChains>
float run_plain(int64_t steps) {
  Plain x[kChains] = {};
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) x[i] += 1.0f + static_cast<float>(i);
  const Plain a = Plain{} + kFactor, b = Plain{} + kTerm;
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) x[i] = x[i] * a + b;
  }
  Plain sum{};
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) sum += x[i];
  return sum[0];
}
constexpr int kPlainChains = 10, kNeonChains = 24;  // in 16 registers, and in 32
constexpr double kPlainFlops = kPlainChains * 4 * 2;
[[maybe_unused]] constexpr double kNeonFlops = kNeonChains * 4 * 2;

#if defined(__x86_64__)

// The target is set by function here, not by file as for the GRU: the functions call intrinsics alone.
__attribute__((target("avx2,fma"))) float run_avx2(int64_t steps) {
  constexpr int kChains = 12;
  __m256 x[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) x[i] = _mm256_set1_ps(1.0f + static_cast<float>(i));
  const __m256 a = _mm256_set1_ps(kFactor), b = _mm256_set1_ps(kTerm);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) x[i] = _mm256_fmadd_ps(x[i], a, b);
  }
#pragma GCC unroll 16
  for (int i = 1; i < kChains; ++i) x[0] = _mm256_add_ps(x[0], x[i]);
  return _mm256_cvtss_f32(x[0]);
}
constexpr double kAvx2Flops = 12 * 8 * 2;

__attribute__((target("avx512f"))) float run_avx512(int64_t steps) {
  constexpr int kChains = 24;
  __m512 x[kChains];
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) x[i] = _mm512_set1_ps(1.0f + static_cast<float>(i));
  const __m512 a = _mm512_set1_ps(kFactor), b = _mm512_set1_ps(kTerm);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) x[i] = _mm512_fmadd_ps(x[i], a, b);
  }
#pragma GCC unroll 24
  for (int i = 1; i < kChains; ++i) x[0] = _mm512_add_ps(x[0], x[i]);
  return _mm512_cvtss_f32(x[0]);
}
constexpr double kAvx512Flops = 24 * 16 * 2;

__attribute__((target("avx512f,avx512bf16"))) float run_avx512_bf16(int64_t steps) {
  constexpr int kChains = 24;
  __m512 x[kChains];
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) x[i] = _mm512_set1_ps(static_cast<float>(i));
  // The operands are read as pairs of bf16 whatever their bits are: 0x3f80 is 1.
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) x[i] = _mm512_dpbf16_ps(x[i], ones, ones);
  }
#pragma GCC unroll 24
  for (int i = 1; i < kChains; ++i) x[0] = _mm512_add_ps(x[0], x[i]);
  return _mm512_cvtss_f32(x[0]);
}
constexpr double kAvx512Bf16Flops = 24 * 32 * 2;

// Zeroed operands: the unit takes the same time for any values. Six sums, as many as two operands leave of 8 tiles.
__attribute__((target("amx-tile,amx-bf16"))) float run_amx_bf16(int64_t steps) {
  static const TileConfig config;
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t step = 0; step < steps; ++step) {
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
    _tile_dpbf16ps(4, 6, 7);
    _tile_dpbf16ps(5, 6, 7);
  }
  _tile_release();
  return 0;
}
constexpr double kAmxFlops = 6 * 16 * 16 * 32 * 2;

#endif

struct Unit {
  const char* name;
  bool available;
  float (*run)(int64_t steps);
  double flops;  // of one step on one thread
};

std::vector<Unit> units() {
  return {
#if defined(__x86_64__)
      {"avx512", __builtin_cpu_supports("avx512f") != 0, run_avx512, kAvx512Flops},
      {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), run_avx2, kAvx2Flops},
#elif defined(__aarch64__)
      {"neon", has_neon(), run_plain<kNeonChains>, kNeonFlops},
#endif
      {"plain", true, run_plain<kPlainChains>, kPlainFlops},
#if defined(__x86_64__)
      {"avx512_bf16", __builtin_cpu_supports("avx512bf16") != 0, run_avx512_bf16, kAvx512Bf16Flops},
      {"amx_bf16", has_amx_bf16(), run_amx_bf16, kAmxFlops},
#endif
  };
}

// Seconds until the last of the threads is through.
double burst(const Unit& unit, int64_t steps, int threads) {
  std::vector<float> kept(static_cast<size_t>(threads));  // results nobody reads would let the compiler drop the loop
  const auto start = std::chrono::steady_clock::now();
  parallel(threads, [&] { kept[static_cast<size_t>(thread())] = unit.run(steps); });
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  [[maybe_unused]] volatile float sink = std::accumulate(kept.begin(), kept.end(), 0.0f);
  return taken.count();
}

// Bursts of 10 ms and more, as a shorter one would time the waking of threads.
double measure(const Unit& unit, int threads, double seconds) {
  int64_t steps = 1000;
  double taken = burst(unit, steps, threads);
  while (taken < 0.01) taken = burst(unit, steps *= 2, threads);
  double best = taken;
  for (double spent = 0; spent < seconds; spent += taken) {
    taken = burst(unit, steps, threads);
    if (taken < best) best = taken;
  }
  return unit.flops * static_cast<double>(steps) * threads / best / 1e9;
}

// The units that this processor has and the operating system allows, each with its GFLOP/s on `threads` threads: the
// best of several bursts that take about `seconds` for each unit. fp32 multiply-add: "avx512", "avx2", "neon", "plain";
// dot products of bf16 pairs summed in fp32: "avx512_bf16", "amx_bf16". Throws std::invalid_argument for less than one
// thread or no time.
std::vector<std::pair<std::string, double>> peak_gflops(int threads, double seconds) {
  if (threads < 1 || !(seconds > 0)) throw std::invalid_argument("a peak takes at least one thread and some time");
  std::vector<std::pair<std::string, double>> peaks;
  for (const Unit& unit : units()) {
    if (unit.available) peaks.emplace_back(unit.name, measure(unit, threads, seconds));
  }
  return peaks;
}

}  // namespace
}  // namespace crrl

PYBIND11_MODULE(crrl_bench_peak, module) {
  module.def("peak_gflops", &crrl::peak_gflops, pybind11::call_guard<pybind11::gil_scoped_release>());
}
