// What gru.cpp computes before a kernel runs; it is the same for all instruction sets.
#pragma once

#include "gru.hpp"

namespace crrl {

// Units are padded to whole vectors, and depths of products to what one instruction multiplies, of every instruction
// set.
constexpr int64_t kPad = 32;

// Kept for backward, for each unit and frame: r, z, n, W_hn h + b_hn and the new h. y has h too, but the caller may
// change it there.
constexpr int64_t kReserved = 5;

// The order in which rows are taken, and the numbering of valid frames: frame t of row b is number starts[b] + t.
struct GruPlan {
  const int64_t* order;    // [B], rows by falling length
  const int64_t* lengths;  // [B]
  const int64_t* starts;   // [B]
  const int64_t* row_of;   // [frames], the row of a frame by its number
  const int64_t* time_of;  // [frames]
  int64_t frames;          // all valid frames
};

using GruCrewKernel = GruCrew (*)(const GruLayer&, const GruPlan&, int threads);

// About how many bytes that a core reads repeatedly stay in its own cache.
double cache_size();

// False: a result is NaN, and float32 by tiles cannot tell whether it would be NaN with products that are not split.
using GruForwardKernel = bool (*)(const GruForward&, const GruPlan&, int threads, void* packed);
using GruBackwardKernel = bool (*)(const GruBackward&, const GruPlan&, int threads);

// Makes what the forward kernel of the same instruction set takes as `packed`; for null, that packs the weights itself.
using GruPackKernel = void* (*)(const GruLayer&);
using GruFreeKernel = void (*)(void* packed);

}  // namespace crrl
