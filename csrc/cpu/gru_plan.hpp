// What gru.cpp works out before a kernel runs, the same for all instruction sets.
#pragma once

#include "gru.hpp"

namespace crrl {

// Units are padded to whole vectors of every instruction set, and depths of products to what any multiplies at once.
constexpr int64_t kPad = 32;

// What is kept of each unit and frame for backward: r, z, n, W_hn h + b_hn and the new h, which also stands in y: there
// the caller may change it.
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

// Bytes of what a core reads again and again that stay in its own cache, about.
double cache_size();

// False: a result is NaN, and tiles of float32 cannot tell whether it would be with products that are not split.
using GruForwardKernel = bool (*)(const GruForward&, const GruPlan&, int threads, void* packed);
using GruBackwardKernel = bool (*)(const GruBackward&, const GruPlan&, int threads);

// What the forward kernel of the same instruction set takes as `packed`; null there: it packs the weights itself.
using GruPackKernel = void* (*)(const GruLayer&);
using GruFreeKernel = void (*)(void* packed);

}  // namespace crrl
