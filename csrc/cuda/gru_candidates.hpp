// The kernels there are, for gru_plan.cpp to choose from. One file a mode, gru_<mode>.cu, so that they compile side by
// side.
#pragma once

#include <vector>

#include "gru_params.hpp"

namespace crrl::gru_cuda {

template <class Chain>
struct Candidate {
  void (*kernel)(Params<Chain>);
  bool cluster;
  int units;                     // of a block
  int rows;                      // of a team
  size_t (*shared)(int padded);  // bytes a block
  size_t (*memory)(int padded);  // bytes of global memory a team
};

// Of one exchange, the smaller tiles first.
using ForwardCandidates = std::vector<Candidate<ForwardChain>>;
using BackwardCandidates = std::vector<Candidate<BackwardChain>>;

const ForwardCandidates& forward_tf32();
const ForwardCandidates& forward_fp32();
const ForwardCandidates& forward_bf16();
const ForwardCandidates& forward_fp16();
const BackwardCandidates& backward_tf32();
const BackwardCandidates& backward_fp32();
const BackwardCandidates& backward_bf16();
const BackwardCandidates& backward_fp16();

}  // namespace crrl::gru_cuda
