#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define CRRL_ISA avx2
#define CRRL_LANES 8
#define CRRL_ROWS 4
#include "infonce_kernels.hpp"
#include "linear_kernels.hpp"
#include "step_kernels.hpp"
#endif
