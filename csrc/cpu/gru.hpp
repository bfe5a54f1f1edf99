// A GRU layer over ragged rows, forward and backward, all directions in one call (torch.nn.GRU's arithmetic).
#pragma once

#include <cstdint>

namespace crrl {

// Frame t of row b is at data + b * row + t * step (in elements); its channels are adjacent.
template <typename T>
struct Frames {
  T* data;
  int64_t row;
  int64_t step;
};

// Elements are float, or bfloat16 for `gru_forward` and `gru_backward` with bf16 = true. B rows of at most T frames, I
// channels in, H units, D directions. Gate order r, z, n.
struct GruLayer {
  int64_t batch;           // B
  int64_t steps;           // T
  int64_t input;           // I
  int64_t hidden;          // H
  int64_t directions;      // D, 1 or 2
  bool reverse;            // the second direction runs backwards, from each row's own last frame
  const int64_t* lengths;  // [B], each in 1..T; null: T
  // Per direction.
  const void* w_ih[2];  // [3H, I]
  const void* w_hh[2];  // [3H, H]
  const void* b_ih[2];  // [3H]; null: no biases
  const void* b_hh[2];
  const void* h0;  // [D, B, H]; null: zeros
  Frames<const void> x;
  bool repeated;  // x has one frame a row, the input of all frames: step is 0, and dx has one frame a row too
};

struct GruForward {
  GruLayer layer;
  Frames<void> y;  // D * H channels, 0 at padded frames
  void* h_n;       // [D, B, H]
  void* reserve;   // what backward needs, gru_reserve_size elements, first those of valid frames; null in inference
};

struct GruBackward {
  GruLayer layer;
  const void* reserve;
  Frames<const void> dy;
  const void* dh_n;  // [D, B, H]
  Frames<void> dx;   // 0 at padded frames; null data: not wanted
  void* dh0;         // [D, B, H]
  void* dw_ih[2];
  void* dw_hh[2];
  void* db_ih[2];  // null where the layer has no biases
  void* db_hh[2];
};

// The weights of a layer as its forward pass reads them, packed once for many calls.
class GruWeights {
 public:
  // Reads only the sizes and weights of `layer`. Throws as gru_forward does.
  GruWeights(const GruLayer& layer, bool bf16, const char* isa);
  GruWeights(const GruWeights&) = delete;
  GruWeights& operator=(const GruWeights&) = delete;
  ~GruWeights();

  // gru_forward without a reserve, for a layer that has no weights of its own.
  void forward(const GruForward& params, int threads) const;

  const int64_t input, hidden, directions;
  const bool bf16;

 private:
  const struct GruKernels& kernels_;
  void* const packed_;
};

// How a call is divided among threads. Results do not depend on it.
struct GruCrew {
  int64_t size;        // threads that take rows through time together, each some units; 1: each has its own rows
  int64_t threads;     // of the call
  double nanoseconds;  // of the recurrence, by the model of gru_kernels.hpp
};

// The crew of gru_forward for a layer of these sizes.
GruCrew gru_crew(const GruLayer& layer, bool bf16, int threads, const char* isa);

int64_t gru_reserve_size(int64_t batch, int64_t steps, int64_t hidden, int64_t directions);

// The name of the fastest instruction set here: "amx", "avx512", "avx2", "neon" or "plain" for float; "amx" or
// "avx512_bf16" for bfloat16, null if this processor has neither.
const char* gru_isa(bool bf16);

// From so many rows, and so many frames of all rows together, float32 is multiplied by tile registers, if there are
// any: with fewer, most of a tile stays empty, and splitting the weights does not pay.
constexpr int64_t kTileRows = 12, kTileFrames = 384;

// Both use at most `threads` threads; the results do not depend on how many. `isa` forces an instruction set by name;
// null: the best that this processor has for the sizes. Throw std::invalid_argument for sizes, lengths or an
// instruction set that do not fit, before anything is written, and std::bad_alloc.
void gru_forward(const GruForward& params, bool bf16, int threads, const char* isa);
void gru_backward(const GruBackward& params, bool bf16, int threads, const char* isa);

}  // namespace crrl
