// InfoNCE over a queue of keys (the paper's Eq. 6) with its gradient, and the queue's ring, float32.
#pragma once

#include <cstdint>

namespace crrl {

struct InfoNce {
  int64_t batch;       // B
  int64_t features;    // D
  int64_t keys;        // K
  const float* q;      // [B, D], of any length; normalised here
  const float* k;      // [B, D], L2-normalised: the positive of each query
  const float* queue;  // [K, D], L2-normalised: the negatives
  double temperature;
  float* loss;  // scalar, the mean over B
  float* dq;    // [B, D], its gradient with respect to q
};

// At most `threads` threads; the results do not depend on how many. `isa` as in isa.hpp. Throws std::invalid_argument
// for sizes or an instruction set that do not fit, before anything is written, and std::bad_alloc.
void info_nce(const InfoNce& params, int threads, const char* isa);

// Replaces the oldest keys of queue [K, D] by `entering` [count, D] (of more than K keys, by the last K). The queue is
// a ring whose oldest key is at *pointer, which advances.
void enqueue(float* queue, int64_t keys, int64_t features, int64_t* pointer, const float* entering, int64_t count);

}  // namespace crrl
