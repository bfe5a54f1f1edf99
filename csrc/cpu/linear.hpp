// An epoch of the linear protocol (the paper's Section IV-C): softmax regression by SGD with Nesterov momentum,
// float32.
#pragma once

#include <cstdint>

namespace crrl {

struct LinearEpoch {
  int64_t clips;           // N
  int64_t features;        // D
  int64_t classes;         // C
  const float* x;          // [N, D]
  const int64_t* labels;   // [N], each in 0..C - 1
  const int64_t* order;    // [count], clips in the order of training
  int64_t count;           //
  int64_t batch;           // clips in a step; the last step takes the rest
  float* weight;           // [C, D]
  float* bias;             // [C]
  float* weight_momentum;  // [C, D], torch.optim.SGD's buffers; zeros before the first epoch
  float* bias_momentum;    // [C]
  double rate;
  double momentum;
};

// Runs on the calling thread alone: a step takes some microseconds, less than a synchronisation of two threads costs.
// `isa` as in isa.hpp. Throws std::invalid_argument for a size, label or clip out of range or a missing instruction
// set, before anything is written, and std::bad_alloc.
void linear_epoch(const LinearEpoch& params, const char* isa);

}  // namespace crrl
