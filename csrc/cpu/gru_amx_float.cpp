#if defined(__x86_64__)
#ifndef CRRL_TILE_STAND_IN
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma,amx-tile,amx-bf16")
#endif
#define CRRL_ISA amx_float
#define CRRL_LANES 16
#define CRRL_ROWS 32
#define CRRL_AMX
#include "gru_kernels.hpp"
#endif
