// The host side of primitives.hpp, its calls of the CUDA runtime; launch.cu implements it.
#pragma once

#include "../types.hpp"

namespace crrl::gpu::detail {

const char* launch(const void* kernel, const Launch& how, void** arguments);
int clusters_at_once(const void* kernel, const Launch& how);

}  // namespace crrl::gpu::detail
