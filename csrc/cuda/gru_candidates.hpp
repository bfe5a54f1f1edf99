// All kernels, for gru_plan.cu to choose from. Each mode has its own file, gru_<mode>.cu, so that they compile in
// parallel.
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

// The candidates of a mode; those of one exchange have the smaller tiles first.
struct Candidates {
  std::vector<Candidate<ForwardChain>> forward;
  std::vector<Candidate<BackwardChain>> backward;
};

const Candidates& candidates_tf32();
const Candidates& candidates_fp32();
const Candidates& candidates_bf16();
const Candidates& candidates_fp16();

}  // namespace crrl::gru_cuda
