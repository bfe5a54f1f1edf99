// The host's side of primitives.hpp, which launch.cu has: what it asks of the CUDA runtime.
#pragma once

#include "../types.hpp"

namespace crrl::gpu::detail {

const char* launch(const void* kernel, const Launch& how, void** arguments);
int clusters_at_once(const void* kernel, const Launch& how);

}  // namespace crrl::gpu::detail
