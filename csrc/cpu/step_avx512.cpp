#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512vl,avx512dq,avx2,fma")
#define CRRL_ISA avx512
#define CRRL_LANES 16
#define CRRL_ROWS 8
#include "infonce_kernels.hpp"
#include "linear_kernels.hpp"
#include "step_kernels.hpp"
#endif
