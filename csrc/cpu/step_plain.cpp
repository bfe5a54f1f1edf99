// Whatever the compiler's default target is: 4 lanes fit every processor with vector registers, and work without.
#define CRRL_ISA plain
#define CRRL_LANES 4
#define CRRL_ROWS 4
#include "infonce_kernels.hpp"
#include "linear_kernels.hpp"
#include "step_kernels.hpp"
