#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define CRRL_ISA avx2
#define CRRL_LANES 8
#define CRRL_ROWS 4
#include "gru_kernels.hpp"
#endif
