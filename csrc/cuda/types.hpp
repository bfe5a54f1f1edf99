// What both builds of the primitives share: device/primitives.hpp and host/primitives.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace crrl::gpu {

struct alignas(16) Words {
  uint32_t word[4];
};

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

struct Launch {
  int blocks;
  int cluster;  // blocks in a cluster; 1: no cluster
  int threads;
  size_t shared;     // bytes of dynamic shared memory a block
  bool cooperative;  // all blocks run at once, or the launch fails
  void* stream;
};

struct Device {
  int major, minor;
  int multiprocessors;
  size_t shared;  // most bytes of dynamic shared memory a block can have
  bool cooperative;
};

// Each returns nullptr, or what went wrong.
const char* device_facts(int device, Device* facts);
const char* zero(void* memory, size_t bytes, void* stream);

}  // namespace crrl::gpu
