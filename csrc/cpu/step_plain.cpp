// The compiler's default target: 4 lanes fit every processor with vector registers, and also work without them.
#define CRRL_ISA plain
#define CRRL_LANES 4
#define CRRL_ROWS 4
#include "infonce_kernels.hpp"
#include "linear_kernels.hpp"
#include "step_kernels.hpp"
