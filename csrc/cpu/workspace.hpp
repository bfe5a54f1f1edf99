// Memory between calls: what a kernel gives back is kept for its next call, as fresh pages cost more than some layers.
#pragma once

#include <cstdint>

namespace crrl {

// At least `bytes` bytes on a cache line, not initialised. Throws std::bad_alloc.
void* take_workspace(int64_t bytes);

// Ends the use of what take_workspace gave. Each thread keeps up to 64 MB; the rest goes back to the system.
void give_workspace(void* memory, int64_t bytes);

}  // namespace crrl
