// The candidates of a mode, for the file that compiles them.
#pragma once

#include "gru_candidates.hpp"
#include "gru_kernels.hpp"

namespace crrl::gru_cuda {

template <class K>
Candidate<ForwardChain> forward_candidate() {
  using Product = GatheredProduct<K>;
  return {gru_forward<K>, K::Exchange::kCluster, K::kUnits, K::kRows, Product::shared_bytes, Product::memory_bytes};
}

template <class K>
Candidate<BackwardChain> backward_candidate() {
  using Product = ScatteredProduct<K>;
  return {gru_backward<K>, K::Exchange::kCluster, K::kUnits, K::kRows, Product::shared_bytes, Product::memory_bytes};
}

template <class Operand, class BackwardOperand, class Element, class Exchange, int kUnits, int kRows>
void add(Candidates& to) {
  to.forward.push_back(forward_candidate<Kind<Operand, Element, Exchange, kUnits, kRows>>());
  to.backward.push_back(backward_candidate<Kind<BackwardOperand, Element, Exchange, kUnits, kRows>>());
}

template <class Operand, class BackwardOperand, class Element>
Candidates all_candidates() {
  Candidates result;
  add<Operand, BackwardOperand, Element, ClusterExchange, 32, 4>(result);
  add<Operand, BackwardOperand, Element, ClusterExchange, 32, 8>(result);
  add<Operand, BackwardOperand, Element, ClusterExchange, 32, 16>(result);
  add<Operand, BackwardOperand, Element, ClusterExchange, 32, 32>(result);
  add<Operand, BackwardOperand, Element, L2Exchange, 32, 8>(result);
  add<Operand, BackwardOperand, Element, L2Exchange, 32, 32>(result);
  add<Operand, BackwardOperand, Element, L2Exchange, 16, 32>(result);
  return result;
}

}  // namespace crrl::gru_cuda
