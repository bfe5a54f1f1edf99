// Matrix products for one instruction set: register tiles of a few rows by a few vectors of columns, over operands
// packed so that a tile reads memory in order.
#pragma once

#include "row_tiles.hpp"

namespace crrl {
namespace CRRL_ISA {
namespace {

constexpr int64_t kTall = kRows * 3 / 2;  // rows of a tile of two vectors, where kRows is that of three

// Elements that one instruction multiplies along the depth of a product; depths are padded to this with zeros.
#ifdef CRRL_BF16
constexpr int64_t kDepth = 2;
#else
constexpr int64_t kDepth = 1;
#endif

// A panel holds V vectors of columns for every depth k. Elements that one lane multiplies together lie side by side.
#ifdef CRRL_BF16
constexpr int64_t kGroup = 2;
#else
constexpr int64_t kGroup = 1;
#endif

#ifdef CRRL_BF16
constexpr int64_t kShort = int64_t{1} << 40;  // rounding the operands outweighs rounding their sums
#else
constexpr int64_t kShort = 128;  // depths summed from zero before they join the rest: long sums round more
#endif
constexpr int64_t kAhead = 16;  // how many depths ahead of its use a panel is fetched from the second-level cache

// The place of column `j` of depth `k` in a panel of `width` columns.
inline int64_t in_panel(int64_t k, int64_t j, int64_t width) {
  return (k / kGroup) * width * kGroup + j * kGroup + k % kGroup;
}

#ifdef CRRL_BF16
// A pair of elements in every lane.
inline __m512bh broadcast(const Element* pair) {
  int32_t bits;
  std::memcpy(&bits, pair, sizeof(bits));
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(bits));
}

inline __m512bh load_columns(const Element* from) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(from)); }

inline Vec multiply_add(Vec sum, __m512bh w, __m512bh a) {
  return reinterpret_cast<Vec>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), w, a));
}
#else
inline Vec broadcast(const float* value) { return splat(*value); }

inline Vec load_columns(const float* from) { return load(from); }

inline Vec multiply_add(Vec sum, Vec w, Vec a) { return sum + w * a; }
#endif

// Prefetches what lies kAhead depths further on in a panel of V vectors, a line at a time.
template <int64_t V>
inline void fetch_ahead(const Element* depth) {
  constexpr int64_t count = V * kLanes * kGroup, line = 64 / static_cast<int64_t>(sizeof(Element));
  for (int64_t i = 0; i < count; i += line) __builtin_prefetch(depth + kAhead * count + i);
}

// sums[i][v] += a[i] panel[v] for R rows of `a`, `next` elements apart. An address reaches three rows from one
// register, and the loop has its own function: otherwise there would be too few registers.
template <int64_t R, int64_t V>
__attribute__((noinline)) void multiply(const Element* a, int64_t next, const Element* panel, int64_t depth,
                                        Vec (&sums)[R][V]) {
  constexpr int64_t bases = (R + 2) / 3;
  const Element* base[bases];
  for (int64_t j = 0; j < bases; ++j) base[j] = a + 3 * j * next;
  Vec sum[R][V];
  const auto step = [&](int64_t k) __attribute__((always_inline)) {
    decltype(load_columns(panel)) w[V];
    fetch_ahead<V>(panel + k * V * kLanes * kGroup);
    for (int64_t v = 0; v < V; ++v) w[v] = load_columns(panel + (k * V * kLanes + v * kLanes) * kGroup);
    for (int64_t i = 0; i < R; ++i) {
      const auto value = broadcast(base[i / 3] + i % 3 * next + k * kDepth);
      for (int64_t v = 0; v < V; ++v) sum[i][v] = multiply_add(sum[i][v], w[v], value);
    }
  };
  const auto advance = [&](int64_t steps) __attribute__((always_inline)) {
    for (int64_t k = 0; k < steps; ++k) step(k);
    for (int64_t j = 0; j < bases; ++j) base[j] += steps * kDepth;
    panel += steps * V * kLanes * kGroup;
  };
  for (int64_t first = 0; first < depth; first += kShort) {
    for (int64_t i = 0; i < R; ++i) {
      for (int64_t v = 0; v < V; ++v) sum[i][v] = Vec{};
    }
    int64_t left = least(kShort, depth - first) / kDepth;
    for (; left >= 2; left -= 2) advance(2);
    if (left > 0) advance(1);
    for (int64_t i = 0; i < R; ++i) {
      for (int64_t v = 0; v < V; ++v) sums[i][v] += sum[i][v];
    }
  }
}

// The same for a single row, in four sums, as a single one would wait for itself. It rounds differently from
// `multiply`, so the choice between them must not depend on how rows are dealt to threads.
template <int64_t V>
__attribute__((noinline)) void multiply_alone(const Element* a, const Element* panel, int64_t depth, Vec (&sums)[V]) {
  constexpr int64_t chains = 4;
  Vec parts[chains][V] = {};
  const auto step = [&](int64_t chain) __attribute__((always_inline)) {
    const auto value = broadcast(a);
    fetch_ahead<V>(panel);
    for (int64_t v = 0; v < V; ++v) {
      parts[chain][v] = multiply_add(parts[chain][v], load_columns(panel + v * kLanes * kGroup), value);
    }
    a += kDepth;
    panel += V * kLanes * kGroup;
  };
  int64_t left = depth / kDepth;
  for (; left >= chains; left -= chains) {
    for (int64_t chain = 0; chain < chains; ++chain) step(chain);
  }
  for (; left > 0; --left) step(0);
  for (int64_t v = 0; v < V; ++v) sums[v] += (parts[0][v] + parts[1][v]) + (parts[2][v] + parts[3][v]);
}

}  // namespace
}  // namespace CRRL_ISA
}  // namespace crrl
