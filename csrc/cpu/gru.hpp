// The recurrent half of a GRU layer over packed ragged rows, forward and backward, all directions in one call.
#pragma once

#include <cstdint>

namespace crrl {

// Rows are sorted by falling length and packed time-major: frame t of row r is at starts[t] + r, for r < active[t].
// H is the hidden size, D the number of directions, F = ΣT the packed frames. Gate order r, z, n.
struct GruShape {
  const int64_t* active;  // [T], rows that have a frame t; falling
  const int64_t* starts;  // [T], packed index of the first of them
  int64_t steps;          // T
  int64_t frames;         // F
  int64_t batch;          // B
  int64_t hidden;         // H
  int64_t directions;     // D
};

struct GruForwardParams {
  GruShape shape;
  const float* gates;  // [D, F, 3H], W_ih x + b_ih
  const float* w_hh;   // [D, 3H, H]
  const float* b_hh;   // [D, 3H]
  float* h;            // [D, B, H], the initial states in, the final ones out
  float* y;            // [D, F, H]
  // What backward needs; null in inference.
  float* before;  // [D, F, H], the state each frame started from
  float* r_z;     // [D, F, 2H]
  float* n;       // [D, F, H]
  float* n_h;     // [D, F, H], W_hn h + b_hn
};

struct GruBackwardParams {
  GruShape shape;
  const float* w_hh;  // [D, 3H, H]
  const float* before;
  const float* r_z;
  const float* n;
  const float* n_h;
  const float* dy;    // [D, F, H]
  float* dh;          // [D, B, H], the gradient of the final states in, of the initial ones out
  float* dgates;      // [D, F, 3H]
  float* drecurrent;  // [D, F, 3H], the gradient of W_hh h + b_hh
};

// The name of the instruction set in use: "avx512", "avx2" or "plain".
const char* gru_isa();

// Both use at most `threads` threads; the results do not depend on how many. `isa` forces an instruction set by name;
// null takes the best that this processor has. Throw std::invalid_argument for sizes or an instruction set that do not
// fit, before anything is written.
void gru_forward(const GruForwardParams& params, int threads, const char* isa);
void gru_backward(const GruBackwardParams& params, int threads, const char* isa);

}  // namespace crrl
