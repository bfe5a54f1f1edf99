// The arithmetic of step.hpp for one instruction set (see simd.hpp for what selects it).
//
// Buffers are cut into blocks of a fixed size, which are shared among threads. A block stays in the cache between the
// update of its parameters and that of its keys, so memory is read once (twice with clipping, which first needs the
// norm).
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "denormals.hpp"
#include "simd.hpp"
#include "step.hpp"

namespace crrl {
namespace CRRL_ISA {
namespace {

constexpr int64_t kBlock = 4096;  // floats: of the five buffers of Adam with keys together 80 KB

inline Vec square_root(Vec x) {
#if CRRL_LANES == 16
  return reinterpret_cast<Vec>(_mm512_maskz_sqrt_ps(0xffff, reinterpret_cast<__m512>(x)));
#elif CRRL_LANES == 8
  return reinterpret_cast<Vec>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
#elif defined(__SSE2__)
  return reinterpret_cast<Vec>(_mm_sqrt_ps(reinterpret_cast<__m128>(x)));
#elif defined(__aarch64__)
  return reinterpret_cast<Vec>(vsqrtq_f32(reinterpret_cast<float32x4_t>(x)));
#else
  for (int64_t lane = 0; lane < kLanes; ++lane) x[lane] = __builtin_sqrtf(x[lane]);
  return x;
#endif
}

// Calls each(i, count) for the vectors from `first` to `last`; only the last may have fewer than kLanes elements.
template <typename Each>
inline void for_vectors(int64_t first, int64_t last, const Each& each) {
  int64_t i = first;
  for (; i + kLanes <= last; i += kLanes) each(i, kLanes);
  if (i < last) each(i, last - i);
}

// Calls each(first, last) for every block, on all threads, denormals taken for zeros.
template <typename Each>
inline void for_blocks(int64_t size, int threads, const Each& each) {
  const int64_t count = blocks(size, kBlock);
  parallel(count > 1 ? threads : 1, [&] {
    const FlushDenormals flush;
    for_share(count, [&](int64_t block) { each(block * kBlock, least(size, (block + 1) * kBlock)); });
  });
}

inline void follow(const EmaUpdate& p, int64_t first, int64_t last, double momentum) {
  if (momentum == 1) return;
  const float keep = static_cast<float>(momentum), take = static_cast<float>(1 - momentum);
  for_vectors(first, last, [&](int64_t i, int64_t count) {
    store(p.keys + i, keep * load(p.keys + i, count) + take * load(p.queries + i, count), count);
  });
}

inline void follow(const EmaUpdate& p, int64_t first, int64_t last) {
  const int64_t end_of_head = least(last, p.boundary);
  follow(p, first, end_of_head, p.momentum_head);
  follow(p, first > end_of_head ? first : end_of_head, last, p.momentum_tail);
}

typedef float Narrow __attribute__((vector_size(CRRL_LANES * 2)));   // half as many lanes,
typedef double Double __attribute__((vector_size(CRRL_LANES * 4)));  // which as doubles fill a register

double sum_of_squares(const float* x, int64_t size) {
  constexpr int64_t lanes = kLanes / 2;
  Double sums[4] = {};
  const auto add = [&](const float* from, Double& sum) {
    Narrow narrow;
    std::memcpy(&narrow, from, sizeof(narrow));
    const Double wide = __builtin_convertvector(narrow, Double);
    sum += wide * wide;
  };
  int64_t i = 0;
  for (; i + 4 * lanes <= size; i += 4 * lanes) {
    for (int64_t j = 0; j < 4; ++j) add(x + i + j * lanes, sums[j]);
  }
  const Double all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double total = 0;
  for (int64_t lane = 0; lane < lanes; ++lane) total += all[lane];
  for (; i < size; ++i) total += static_cast<double>(x[i]) * x[i];
  return total;
}

// The factor by which clipping scales the gradients. Blocks are added in order, whichever thread summed them.
float clip_factor(const FlatStep& p, int threads) {
  if (!(p.max_norm > 0)) return 1;
  Buffer<double> sums(blocks(p.size, kBlock));
  for_blocks(p.size, threads, [&](int64_t first, int64_t last) {
    *sums.at(first / kBlock) = sum_of_squares(p.gradients + first, last - first);
  });
  double total = 0;
  for (int64_t block = 0; block < blocks(p.size, kBlock); ++block) total += *sums.at(block);
  const double factor = p.max_norm / (__builtin_sqrt(total) + 1e-6);
  return factor > 1 ? 1.0f : static_cast<float>(factor);  // written so that NaN stays NaN
}

// The constants of a step, and the update of one block of parameters.
struct Step {
  const FlatStep& p;
  float clip, decay, rate, momentum;

  Step(const FlatStep& step, float clip_by)
      : p(step),
        clip(clip_by),
        decay(static_cast<float>(step.weight_decay)),
        rate(step.rates[0]),
        momentum(step.rates[1]) {}

  Vec gradient(int64_t i, int64_t count, Vec parameter) const {
    const Vec clipped = clip * load(p.gradients + i, count);
    return decay == 0 ? clipped : clipped + decay * parameter;
  }

  void sgd(int64_t first, int64_t last) const {
    for_vectors(first, last, [&](int64_t i, int64_t count) {
      const Vec parameter = load(p.parameters + i, count), g = gradient(i, count, parameter);
      const Vec buffer = momentum * load(p.first + i, count) + g;
      store(p.first + i, buffer, count);
      store(p.parameters + i, parameter - rate * (p.nesterov ? g + momentum * buffer : buffer), count);
    });
  }

  void adam(int64_t first, int64_t last) const {
    const float take1 = 1 - momentum, keep2 = static_cast<float>(p.beta2), take2 = static_cast<float>(1 - p.beta2);
    const float scale = rate / p.rates[2], inverse = 1 / __builtin_sqrtf(p.rates[3]), eps = static_cast<float>(p.eps);
    for_vectors(first, last, [&](int64_t i, int64_t count) {
      const Vec parameter = load(p.parameters + i, count), g = gradient(i, count, parameter);
      const Vec mean = momentum * load(p.first + i, count) + take1 * g;
      const Vec square = keep2 * load(p.second + i, count) + take2 * (g * g);
      store(p.first + i, mean, count);
      store(p.second + i, square, count);
      store(p.parameters + i, parameter - scale * mean / (square_root(square) * inverse + eps), count);
    });
  }
};

}  // namespace

void ema_update(const EmaUpdate& p, int threads) {
  for_blocks(p.size, threads, [&](int64_t first, int64_t last) { follow(p, first, last); });
}

void flat_step(const FlatStep& p, int threads) {
  const Step step(p, clip_factor(p, threads));
  for_blocks(p.size, threads, [&](int64_t first, int64_t last) {
    p.second == nullptr ? step.sgd(first, last) : step.adam(first, last);
    if (p.ema.keys != nullptr) follow(p.ema, first, last);
  });
}

}  // namespace CRRL_ISA
}  // namespace crrl
