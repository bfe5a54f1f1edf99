// The operands of the GRU's products for tile registers, which multiply bfloat16. A float32 element is stored as a sum
// of three bfloat16 numbers: the element rounded, the remainder rounded, and the remainder of that. Six of the nine
// products of two elements are added; the other three are below their rounding error.
//
// Everything is stored as tiles read it, tile after tile of 16 rows of 64 bytes: an operand as [16 rows][32 deep]
// [piece], a panel as [32 columns][32 deep][piece][16 columns].
#pragma once

#include "row_tiles.hpp"
#include "tile.hpp"

namespace crrl {
namespace CRRL_ISA {
namespace {

struct Piece {
  uint16_t bits;
};

#ifdef CRRL_BF16
constexpr int64_t kPieces = 1;
constexpr int64_t kDeep = 256;
constexpr int64_t kChunk = 128;  // frames projected at a time: the results stay in the cache
#else
constexpr int64_t kPieces = 3;
constexpr int64_t kChunk = 256;  // weights are three times as large, and read once for them
constexpr int64_t kDeep = 128;   // frames of a weight's gradient at a time: their panel stays in the cache
#endif
constexpr int64_t kChainRows = 32;    // at most, of a chain
constexpr int64_t kTogether = 8;      // blocks of columns of a weight's gradient for which the channels are read once
constexpr int64_t kFrameBlock = 128;  // frames whose dx one thread computes at a time
constexpr int64_t kFewFrames = 0;     // weights are always packed
constexpr double kRate = kPieces == 1 ? 250 : 100;  // about how many products a thread computes in a nanosecond
constexpr bool kRowsAsPanels = false;
constexpr int64_t kTall = kRows;
constexpr int64_t kGroup = 2;
constexpr int64_t kDepth = 32;
constexpr int64_t kVecs = 2;                       // vectors of units in a block of the forward pass
constexpr int64_t kTile = 512;                     // pieces in a tile
constexpr int64_t kOperandStep = kPieces * kTile;  // from 32 depths of an operand to the next
constexpr int64_t kPanelStep = 2 * kOperandStep;   // the same of a panel
static_assert(kLanes == 16 && kRows == 32);

using Products = Tiles;
// An element that is not finite, or rounds to infinity, has pieces that are NaN.
inline void split(Vec value, Half (&pieces)[kPieces]) {
  for (int64_t p = 0; p < kPieces; ++p) {
    pieces[p] = to_half(value);
    if (p + 1 < kPieces) value -= to_vec(pieces[p]);
  }
}

inline int64_t operand_size(int64_t rows, int64_t depth) { return round_up(rows, 16) * depth * kPieces; }

// The place of element k of a row in an operand [rows, depth]. A product begins at the first row of a tile.
inline int64_t in_operand(int64_t depth, int64_t row, int64_t k) {
  return (row & -16) * depth * kPieces + (k >> 5) * kOperandStep + (row & 15) * 32 + (k & 31);
}

// A vector along the depth of an operand.
inline void put(Piece* to, Vec value) {
  Half pieces[kPieces];
  split(value, pieces);
  for (int64_t p = 0; p < kPieces; ++p) std::memcpy(static_cast<void*>(to + p * kTile), &pieces[p], sizeof(Half));
}

inline Vec get(const Piece* from) {
  Vec sum = {};
  for (int64_t p = kPieces - 1; p >= 0; --p) {
    Half piece;
    std::memcpy(&piece, from + p * kTile, sizeof(piece));
    sum += to_vec(piece);
  }
  return sum;
}

// The place of depth k of vector v in a panel of V vectors and of this depth.
template <int64_t V>
inline int64_t in_panel_of(int64_t depth, int64_t k, int64_t v) {
  return (v / 2 * (depth / 32) + k / 32) * kPanelStep + v % 2 * kTile + k % 32 * 16;
}

// Words across the depth of a panel; those of piece p are words[p * kLanes].
inline void put_words(Piece* panel, const IntVec* words) {
  for (int64_t p = 0; p < kPieces; ++p) {
    std::memcpy(static_cast<void*>(panel + p * 2 * kTile), &words[p * kLanes], sizeof(IntVec));
  }
}

// Words along the depth of an operand, piece p of each.
inline void put_row_words(Piece* to, int64_t p, IntVec words) {
  std::memcpy(static_cast<void*>(to + p * kTile), &words, sizeof(words));
}

// Words of two elements along the depth: those of one row, of which `count` are left.
inline void load_words(const Element* from, int64_t count, IntVec* words) {
  Half halves[2][kPieces] = {};
  split(load(from, count), halves[0]);
  if (count > kLanes) split(load(from + kLanes, count - kLanes), halves[1]);
  for (int64_t p = 0; p < kPieces; ++p) {
    std::memcpy(&words[p * kLanes], &halves[0][p], sizeof(Half));
    std::memcpy(reinterpret_cast<char*>(&words[p * kLanes]) + sizeof(Half), &halves[1][p], sizeof(Half));
  }
}

inline IntVec pair(Half even, Half odd) { return (IntVec)(widen_bits(even) | widen_bits(odd) << 16); }

// Words of two elements along the depth, from two vectors across it.
inline void make_words(const Vec (&values)[kGroup], IntVec* words) {
  Half even[kPieces], odd[kPieces];
  split(values[0], even);
  split(values[1], odd);
  for (int64_t p = 0; p < kPieces; ++p) words[p * kLanes] = pair(even[p], odd[p]);
}

// The words of rows `row`, `row` + 1 and columns `column`.. of an operand.
inline void interleave(const Piece* operand, int64_t depth, int64_t row, int64_t column, IntVec* words) {
  const Piece* from = operand + in_operand(depth, row, column);
  for (int64_t p = 0; p < kPieces; ++p, from += kTile) {
    Half even, odd;
    std::memcpy(&even, from, sizeof(even));
    std::memcpy(&odd, from + 32, sizeof(odd));
    words[p * kLanes] = pair(even, odd);
  }
}

template <int T, bool More>
inline void begin(const float* sums, int64_t stride) {
  if constexpr (More) {
    tile_load<T>(sums, stride);
  } else {
    tile_zero<T>();
  }
}

// 32 rows by 32 columns: 24 products for 14 loads of a tile. Every shape adds the products of pieces in this order, so
// that a row's results do not depend on the rows beside it.
template <bool More>
inline void multiply_square(const Piece* a, int64_t next, const Piece* panel, int64_t depth, float* sums,
                            int64_t stride) {
  const int64_t below = stride / 4 * 16;
  begin<0, More>(sums, stride);
  begin<1, More>(sums + 16, stride);
  begin<2, More>(sums + below, stride);
  begin<3, More>(sums + below + 16, stride);
  for (; depth > 0; depth -= kDepth, a += kOperandStep, panel += kPanelStep) {
    const auto rows = [&](int64_t p) __attribute__((always_inline)) {
      tile_load<4>(a + p * kTile);
      tile_load<5>(a + next + p * kTile);
    };
    const auto columns = [&](int64_t p) __attribute__((always_inline)) {
      tile_load<6>(panel + 2 * p * kTile);
      tile_load<7>(panel + (2 * p + 1) * kTile);
    };
    const auto products = [&]() __attribute__((always_inline)) {
      tile_multiply<0, 4, 6>();
      tile_multiply<1, 4, 7>();
      tile_multiply<2, 5, 6>();
      tile_multiply<3, 5, 7>();
    };
    rows(0);
    if constexpr (kPieces == 3) {
      columns(2), products();
      columns(1), products();
    }
    columns(0), products();
    if constexpr (kPieces == 3) {
      rows(2), products();
      rows(1), products();
      columns(1), products();
    }
  }
  tile_store<0>(sums, stride);
  tile_store<1>(sums + 16, stride);
  tile_store<2>(sums + below, stride);
  tile_store<3>(sums + below + 16, stride);
}

// One tile of rows by C tiles of columns, C even. A sum waits for its last product; with more sums, it waits less.
template <int C, bool More>
inline void multiply_wide(const Piece* a, const Piece* panel, int64_t depth, float* sums, int64_t stride) {
  const int64_t next = depth / kDepth * kPanelStep;
  const auto each = [&](auto run) __attribute__((always_inline)) {
    run(Rows<0>()), run(Rows<1>());
    if constexpr (C > 2) run(Rows<2>()), run(Rows<3>()), run(Rows<4>()), run(Rows<5>());
  };
  static_assert(C == 2 || C == 6);
  each([&](auto c) __attribute__((always_inline)) { begin<c.value, More>(sums + c.value * 16, stride); });
  for (; depth > 0; depth -= kDepth, a += kOperandStep, panel += kPanelStep) {
    const auto products = [&](int64_t p) __attribute__((always_inline)) {
      each([&](auto c) __attribute__((always_inline)) {
        tile_load<7>(panel + c.value / 2 * next + (2 * p + c.value % 2) * kTile);
        tile_multiply<c.value, 6, 7>();
      });
    };
    tile_load<6>(a);
    if constexpr (kPieces == 3) products(2), products(1);
    products(0);
    if constexpr (kPieces == 3) {
      tile_load<6>(a + 2 * kTile);
      products(0);
      tile_load<6>(a + kTile);
      products(0), products(1);
    }
  }
  each([&](auto c) __attribute__((always_inline)) { tile_store<c.value>(sums + c.value * 16, stride); });
}

template <bool More, int64_t R, int64_t V>
__attribute__((noinline)) void multiply(const Piece* a, int64_t next, const Piece* panel, int64_t depth,
                                        Vec (&sums)[R][V]) {
  constexpr int64_t stride = sizeof(sums[0]);
  float* const out = reinterpret_cast<float*>(sums);
  if constexpr (R == 16) {
    multiply_wide<V, More>(a, panel, depth, out, stride);
  } else {
    const int64_t pair = depth / kDepth * kPanelStep;
    for (int64_t v = 0; v < V; v += 2, panel += pair) {
      multiply_square<More>(a, next * 16 * kPieces, panel, depth, out + v * 16, stride);
    }
  }
}

// sums = a panel, for an operand `next` deep.
template <int64_t R, int64_t V>
inline void set_product(const Piece* a, int64_t next, const Piece* panel, int64_t depth, Vec (&sums)[R][V]) {
  multiply<false>(a, next, panel, depth, sums);
}

// sums += a panel.
template <int64_t R, int64_t V>
inline void add_product(const Piece* a, int64_t next, const Piece* panel, int64_t depth, Vec (&sums)[R][V]) {
  multiply<true>(a, next, panel, depth, sums);
}

}  // namespace
}  // namespace CRRL_ISA
}  // namespace crrl
