// Tile registers as memory, and their instructions as loops: csrc/cpu/tile.hpp for processors that have none.
#pragma once

#include <cstdint>
#include <cstring>

namespace crrl {
namespace {

constexpr int64_t kTileRow = 64;
constexpr int kSide = 16;

struct TileRegister {
  char bytes[kSide][kTileRow];
};

thread_local TileRegister tiles[8];

struct Tiles {
  Tiles() { std::memset(static_cast<void*>(tiles), 0xff, sizeof(tiles)); }
};

inline float half_to_float(const char* from) {
  uint16_t half;
  std::memcpy(&half, from, sizeof(half));
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

template <int T>
inline void tile_zero() {
  std::memset(tiles[T].bytes, 0, sizeof(tiles[T].bytes));
}

template <int T>
inline void tile_load(const void* from, int64_t stride = kTileRow) {
  for (int i = 0; i < kSide; ++i) std::memcpy(tiles[T].bytes[i], static_cast<const char*>(from) + i * stride, kTileRow);
}

template <int T>
inline void tile_store(void* to, int64_t stride) {
  for (int i = 0; i < kSide; ++i) std::memcpy(static_cast<char*>(to) + i * stride, tiles[T].bytes[i], kTileRow);
}

// The even and the odd elements of a row are added up apart.
template <int Sum, int RowTile, int ColumnTile>
inline void tile_multiply() {
  for (int i = 0; i < kSide; ++i) {
    for (int j = 0; j < kSide; ++j) {
      float parts[2] = {}, sum;
      for (int k = 0; k < 2 * kSide; ++k) {
        const char* const column = tiles[ColumnTile].bytes[k / 2] + 4 * j + k % 2 * 2;
        parts[k % 2] += half_to_float(tiles[RowTile].bytes[i] + 2 * k) * half_to_float(column);
      }
      std::memcpy(&sum, tiles[Sum].bytes[i] + 4 * j, sizeof(sum));
      sum += parts[0] + parts[1];
      std::memcpy(tiles[Sum].bytes[i] + 4 * j, &sum, sizeof(sum));
    }
  }
}

}  // namespace
}  // namespace crrl
