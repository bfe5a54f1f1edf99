// The exchange of a team's blocks alone, for the bench: rounds of what the recurrence does after every frame, without
// its products. Eight rows, 32 units a block. What is published in a round depends on all that was read in the round
// before, so that the result proves that every word came, in every round.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace crrl::gru_cuda {

// The way: "gather" and "l2 gather" are AllGather of ClusterExchange and of L2Exchange, "scatter" and "l2 scatter"
// their ReduceScatter.
struct ExchangeCase {
  std::string way;
  int itemsize;  // bytes of a number: 2 or 4; of a scatter, 4
  int blocks;    // of a team
  int teams;
  int rounds;
};

// Bytes of global memory that a case takes, 256-byte aligned.
size_t exchange_workspace(const ExchangeCase& which);

// On `stream` of `device`. result: uint32 [teams, blocks, 256], what each thread made of all it read. `status` and the
// patience as in gru.hpp. Returns what went wrong, or an empty string.
std::string exchange(const ExchangeCase& which, void* result, void* workspace, int* status, int64_t patience_ns,
                     int device, void* stream);

}  // namespace crrl::gru_cuda
