// Memory kept between calls: a kernel reuses what its last call gave back, as fresh pages cost more than some layers.
#pragma once

#include <cstdint>

namespace crrl {

// At least `bytes` bytes, aligned to a cache line, uninitialised. Throws std::bad_alloc.
void* take_workspace(int64_t bytes);

// Gives back memory of take_workspace. Each thread keeps up to 64 MB; the rest goes back to the system.
void give_workspace(void* memory, int64_t bytes);

}  // namespace crrl
