// The instructions of tile registers. A test may replace them by a stand-in.
#pragma once

#ifdef CRRL_TILE_STAND_IN
#include CRRL_TILE_STAND_IN
#else

#include <cstdint>

#include "amx.hpp"

namespace crrl {
namespace {  // each source file has its own copy: see simd.hpp

constexpr int64_t kTileRow = 64;  // bytes

// A thread's use of the tile registers.
class Tiles {
 public:
  Tiles() {
    static const TileConfig config;
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
  }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
  ~Tiles() { __asm__ volatile("tilerelease"); }
};

template <int T>
inline void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(T));
}

// 16 rows of 64 bytes, `stride` bytes apart.
template <int T>
inline void tile_load(const void* from, int64_t stride = kTileRow) {
  __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(T), "r"(from), "r"(stride) : "memory");
}

template <int T>
inline void tile_store(void* to, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(T), "r"(to), "r"(stride) : "memory");
}

// sum [16, 16] of float += rows [16, 32] times columns [16 pairs, 16, 2] of bfloat16.
template <int Sum, int RowTile, int ColumnTile>
inline void tile_multiply() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(RowTile), "i"(ColumnTile));
}

}  // namespace
}  // namespace crrl
#endif
