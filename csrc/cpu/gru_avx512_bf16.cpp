#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma")
#define CRRL_ISA avx512_bf16
#define CRRL_LANES 16
#define CRRL_ROWS 8
#define CRRL_BF16
#include "gru_kernels.hpp"
#endif
