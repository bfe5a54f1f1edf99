// Vectors of 128 bits, which every 64-bit ARM processor has, in 32 registers: g++ spills none for a tile of 7 rows by 3
// vectors, but some for 8 rows.
#if defined(__aarch64__)
#define CRRL_ISA neon
#define CRRL_LANES 4
#define CRRL_ROWS 7
#include "gru_kernels.hpp"
#endif
