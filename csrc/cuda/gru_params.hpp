// The arguments of a kernel.
#pragma once

#include "gru.hpp"

namespace crrl::gru_cuda {

constexpr int kThreads = 256;
constexpr size_t kCounterBytes = 128;  // a cache line for each team's counter

template <class Chain>
struct Params {
  Chain chains[kMaxChains];
  Sizes sizes;
  int blocks;               // in a team
  int padded;               // units of all blocks of a team
  int first_team;           // of this launch; the chains of a tile are teams side by side
  unsigned char* counters;  // kCounterBytes a team, 0
  unsigned char* memory;    // the teams' buffers
  size_t memory_stride;
  int* status;
  uint64_t patience_ns;
};

}  // namespace crrl::gru_cuda
