// Tile registers (AMX): whether they may be used, and how they are set up.
#pragma once

#include <cstdint>

namespace crrl {

// Every tile at its largest: 16 rows of 64 bytes. Keep it static: on the stack, g++ 12 drops stores to it that only
// _tile_loadconfig reads.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Whether this processor has tiles for bfloat16 and the system lets this process use them. Asks for that permission.
bool has_amx_bf16();

}  // namespace crrl
