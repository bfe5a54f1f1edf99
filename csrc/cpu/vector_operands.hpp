// The operands of the GRU's products for vector registers: rows as they are, elements of a panel in groups.
#pragma once

#include "product.hpp"

namespace crrl {
namespace CRRL_ISA {
namespace {

using Piece = Element;
constexpr int64_t kPieces = 1;   // that an element is stored as
constexpr int64_t kVecs = 1;     // vectors of units in a block of the forward pass
constexpr int64_t kDeep = 256;   // frames of a weight's gradient at a time: their panel stays in the cache
constexpr int64_t kChunk = 256;  // frames projected at a time: the results stay in the cache
constexpr int64_t kChainRows = int64_t{1} << 40;  // at most, of a chain
constexpr int64_t kTogether = 1;     // blocks of columns of a weight's gradient for which the channels are read once
constexpr int64_t kFrameBlock = 64;  // frames whose dx one thread computes at a time
constexpr double kRate = 3 * kLanes * kDepth;  // about how many products a thread computes in a nanosecond

struct Products {};

inline int64_t operand_size(int64_t rows, int64_t depth) { return rows * depth; }

// The place of element k of a row in an operand [rows, depth]. A product begins at any row.
inline int64_t in_operand(int64_t depth, int64_t row, int64_t k) { return row * depth + k; }

// A vector along the depth of an operand.
inline void put(Piece* to, Vec value) { store(to, value); }
inline Vec get(const Piece* from) { return load(from); }

// The place of depth k of vector v in a panel of V vectors.
template <int64_t V>
inline int64_t in_panel_of(int64_t, int64_t k, int64_t v) {
  return in_panel(k, v * kLanes, V * kLanes);
}

// Words across the depth of a panel; those of piece p are words[p * kLanes].
inline void put_words(Piece* panel, const IntVec* words) {
  std::memcpy(static_cast<void*>(panel), words, sizeof(*words));
}

// Words along the depth of an operand, piece p of each.
inline void put_row_words(Piece* to, int64_t, IntVec words) {
  std::memcpy(static_cast<void*>(to), &words, sizeof(words));
}

// Words of kGroup elements along the depth: those of one row, of which `count` are left.
inline void load_words(const Element* from, int64_t count, IntVec* words) {
  if (count >= kLanes * kGroup) {
    std::memcpy(words, from, sizeof(*words));
  } else {
    words[0] = IntVec{};
    std::memcpy(words, from, count * sizeof(Element));
  }
}

// Words of kGroup elements along the depth, from as many vectors across it.
inline void make_words(const Vec (&values)[kGroup], IntVec* words) {
  words[0] = IntVec{};
  for (int64_t j = 0; j < kGroup; ++j) {
    IntVec bits;
    std::memcpy(&bits, &values[j], sizeof(bits));
    words[0] |= j + 1 < kGroup ? (IntVec)((UnsignedVec)bits >> 16) : bits;
  }
}

// Vector v, across the depth, of the words of rows k.. in an operand.
inline void interleave(const Piece* operand, int64_t depth, int64_t row, int64_t column, IntVec* words) {
  Vec values[kGroup];
  for (int64_t j = 0; j < kGroup; ++j) values[j] = load(operand + (row + j) * depth + column);
  make_words(values, words);
}

// sums += a panel.
template <int64_t R, int64_t V>
inline void add_product(const Piece* a, int64_t next, const Piece* panel, int64_t depth, Vec (&sums)[R][V]) {
  multiply<R, V>(a, next, panel, depth, sums);
}

// sums = a panel.
template <int64_t R, int64_t V>
inline void set_product(const Piece* a, int64_t next, const Piece* panel, int64_t depth, Vec (&sums)[R][V]) {
  std::memset(sums, 0, sizeof(sums));
  multiply<R, V>(a, next, panel, depth, sums);
}

constexpr int64_t kFewFrames = 24;  // up to so many take less time with unpacked weights than packing takes

// Masks: a vector of bytes that are kept, then as many that are not.
struct Kept {
  uint8_t bytes[2 * sizeof(Vec)] = {};
  constexpr Kept() {
    for (uint64_t i = 0; i < sizeof(Vec); ++i) bytes[i] = 0xff;
  }
};

constexpr Kept kKept;

// The last `count` elements of a row, fewer than a vector, then zeros. `inside`: a whole vector may be read.
inline auto load_last(const Element* from, int64_t count, bool inside) {
  IntVec words = {}, kept;
  if (inside) {
    std::memcpy(&kept, kKept.bytes + sizeof(Vec) - count * sizeof(Element), sizeof(kept));
    std::memcpy(&words, from, sizeof(words));
    words &= kept;
  } else {
    std::memcpy(&words, from, count * sizeof(Element));
  }
  Element padded[kLanes * kGroup];
  std::memcpy(padded, &words, sizeof(words));
  return load_columns(padded);
}

// sums[i][to + j] = the products of row i of `a` with row j of W, lane by lane. Prefetches W `ahead` of its use.
template <int64_t J, int64_t R>
__attribute__((noinline)) void multiply_lanes(const Element* a, int64_t next, const Element* w, int64_t depth,
                                              bool inside, int64_t ahead, Vec (&sums)[R][kLanes], int64_t to) {
  constexpr int64_t step = kLanes * kGroup, bases = (J + 2) / 3;
  const Element *base[bases], *rows[2] = {a, a + next * 3};
  for (int64_t j = 0; j < bases; ++j) base[j] = w + 3 * j * depth;
  const auto value = [&](int64_t i, int64_t k)
                         __attribute__((always_inline)) { return load_columns(rows[i / 3] + i % 3 * next + k); };
  Vec sum[J][R];
  for (int64_t j = 0; j < J; ++j) {
    for (int64_t i = 0; i < R; ++i) sum[j][i] = Vec{};
  }
  int64_t k = 0;
  for (; k + step <= depth; k += step) {
    for (int64_t j = 0; j < J; ++j) {
      const Element* const row = base[j / 3] + j % 3 * depth;
      const auto columns = load_columns(row);
      __builtin_prefetch(row + ahead);
      for (int64_t i = 0; i < R; ++i) sum[j][i] = multiply_add(sum[j][i], columns, value(i, k));
    }
    for (int64_t j = 0; j < bases; ++j) base[j] += step;
  }
  for (int64_t j = 0; k < depth && j < J; ++j) {
    const auto columns = load_last(base[j / 3] + j % 3 * depth, depth - k, inside);
    for (int64_t i = 0; i < R; ++i) sum[j][i] = multiply_add(sum[j][i], columns, value(i, k));
  }
  for (int64_t j = 0; j < J; ++j) {
    for (int64_t i = 0; i < R; ++i) sums[i][to + j] = sum[j][i];
  }
}

// sums[i] = a[i] W for R rows of `a`, which are zero past the depth up to a whole vector, and kLanes rows of unpacked
// W. Of these, `count` are needed, the others give 0, and `left` exist. Four rows of each fill the registers.
template <int64_t R>
inline void multiply_unpacked(const Element* a, int64_t next, const Element* w, int64_t depth, int64_t count,
                              int64_t left, int64_t ahead, Vec (&sums)[R]) {
  static_assert(R <= 4);
  constexpr int64_t most = R <= 2 ? 8 : 4, J = most < kLanes ? most : kLanes, step = kLanes * kGroup;
  Vec lanes[R][kLanes];
  const auto inside = [&](int64_t row) { return row * depth + round_up(depth, step) <= left * depth; };
  int64_t j = 0;
  for (; j + J <= count && j < kLanes; j += J) {
    multiply_lanes<J>(a, next, w + j * depth, depth, inside(j + J - 1), ahead, lanes, j);
  }
  for (; j < count && j < kLanes; ++j) multiply_lanes<1>(a, next, w + j * depth, depth, inside(j), ahead, lanes, j);
  for (; j < kLanes; ++j) {
    for (int64_t i = 0; i < R; ++i) lanes[i][j] = Vec{};
  }
  for (int64_t i = 0; i < R; ++i) sums[i] = sum_rows(lanes[i]);
}

#ifndef CRRL_BF16
constexpr bool kRowsAsPanels = true;  // the rows of an unpacked matrix serve as the depths of a panel

// sums[i] += a[i] W for R rows of `a` and `depth` rows of W, `columns` long, of which `left` remain from here on.
template <int64_t R, int64_t V>
__attribute__((noinline)) void add_rows(const float* a, int64_t next, const float* w, int64_t depth, int64_t columns,
                                        int64_t left, Vec (&sums)[R][V]) {
  Vec sum[R][V] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec row[V];
    for (int64_t v = 0; v < V; ++v) {
      const float* const from = w + k * columns + v * kLanes;
      const int64_t count = left - v * kLanes;
      row[v] = count >= kLanes ? load(from)
               : count > 0     ? load_last(from, count, k + 1 + kLanes / columns < depth)
                               : Vec{};
    }
    for (int64_t i = 0; i < R; ++i) {
      for (int64_t v = 0; v < V; ++v) sum[i][v] += row[v] * a[i * next + k];
    }
  }
  for (int64_t i = 0; i < R; ++i) {
    for (int64_t v = 0; v < V; ++v) sums[i][v] += sum[i][v];
  }
}
#else
constexpr bool kRowsAsPanels = false;
#endif

}  // namespace
}  // namespace CRRL_ISA
}  // namespace crrl
