// The bidirectional GRU layer on a GPU: h_t = (1 − z) n + z h_{t−1} as in torch.nn.GRU, over ragged rows.
//
// A chain is one direction of one encoder. Chains of one launch share only B, T and H. The caller computes what comes
// before and after the recurrence, W_ih x + b_ih and the gradients of weights and inputs, by matrix products over all
// frames at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace crrl::gru_cuda {

constexpr int kMaxChains = 4;

// float32 in memory: products of TF32 (kTF32) or exact (kFP32) operands. 16 bits in memory: kBF16, kFP16.
enum class Mode { kTF32, kFP32, kBF16, kFP16 };

// A tensor [B, T, C]: strides in elements from row to row and from frame to frame; the C channels are adjacent.
struct Frames {
  void* data;
  int64_t row, frame;
};

struct ForwardChain {
  Frames gates;            // [B, T, 3H]: W_ih x + b_ih, in the order r, z, n
  const void* w_hh;        // [3H, H]
  const void* b_hh;        // [3H], or null
  const void* h0;          // [B, H], or null for zeros
  const int64_t* lengths;  // [B] in 1..T, or null: all frames are valid
  Frames y;                // [B, T, H], 0 at padded frames
  void* h_n;               // [B, H]
  Frames reserve;          // [B, T, 5H]: r, z, n, W_hn h + b_hn, h before the frame; null data: not wanted
  bool reverse;            // in time from each row's last frame
};

struct BackwardChain {
  const void* w_hh;
  const int64_t* lengths;
  Frames reserve;
  Frames dy;         // [B, T, H]; null data: 0
  const void* dh_n;  // [B, H], or null for 0
  Frames dgates;     // [B, T, 4H]: gradients of W_ir x.., W_iz x.., W_in x.. and W_hn h + b_hn, 0 at padded frames
  void* dh0;         // [B, H]
  bool reverse;
};

struct Sizes {
  int chains, batch, steps, hidden;
};

// How a call is divided over the GPU. A team of blocks takes `rows` rows of one chain through time; each block owns
// `units` hidden units and keeps their weights, and the team exchanges h (or gradients of gates) after every frame.
struct Plan {
  std::string variant;  // "cluster": through distributed shared memory; "l2": through global memory; "": none can
  std::string reason;
  int blocks = 0;  // in a team
  int units = 0;
  int rows = 0;
  int teams = 0;         // at once
  size_t shared = 0;     // bytes a block
  size_t workspace = 0;  // bytes of global memory that the call needs
};

// `variant`: "" for the first that can run, else the requested one. More chains than the call has leave room for as
// many beside it.
Plan plan(Mode mode, bool backward, const Sizes& sizes, int device, const std::string& variant);

// Launches on `stream` of `device`, without allocating or waiting. `status` is a word of host memory that the GPU can
// write: it becomes 1 if a block waits for its team longer than `patience_ns`; the results of that call are NaN.
// `workspace`: 256-byte aligned. Each returns what went wrong, or an empty string.
std::string forward(Mode mode, const Sizes& sizes, const ForwardChain* chains, const Plan& plan, void* workspace,
                    int* status, int64_t patience_ns, int device, void* stream);
std::string backward(Mode mode, const Sizes& sizes, const BackwardChain* chains, const Plan& plan, void* workspace,
                     int* status, int64_t patience_ns, int device, void* stream);

}  // namespace crrl::gru_cuda
