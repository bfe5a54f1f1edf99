// Divides the rows of a product into tiles of a few rows; the last tile has its own size.
#pragma once

#include "simd.hpp"

namespace crrl {
namespace CRRL_ISA {
namespace {

constexpr int64_t kRows = CRRL_ROWS;
#ifdef CRRL_AMX
constexpr int64_t kRowStep = 16;  // from one size of tile to the next
#else
constexpr int64_t kRowStep = 1;
#endif

template <int64_t R>
struct Rows {
  static constexpr int64_t value = R;
};

template <int64_t R = kRows, typename Tile>
inline void run_tile(int64_t first, int64_t rows, const Tile& tile) {
  constexpr int64_t smaller = R - kRowStep;
  if constexpr (smaller > 0) {
    if (rows <= smaller) return run_tile<smaller>(first, rows, tile);
  }
  tile(first, rows, Rows<R>());
}

// Calls tile(first, rows, Rows<R>) for tiles of `count` rows; R >= rows, and R rows can be read.
template <int64_t R = kRows, typename Tile>
inline void for_tiles(int64_t count, const Tile& tile) {
  for (int64_t i = 0; i < count; i += R) run_tile<R>(i, least(R, count - i), tile);
}

}  // namespace
}  // namespace CRRL_ISA
}  // namespace crrl
