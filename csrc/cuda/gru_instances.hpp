// The candidates of a mode, for the file that compiles them.
#pragma once

#include "gru_candidates.hpp"
#include "gru_kernels.hpp"

namespace crrl::gru_cuda {

template <class K>
Candidate<ForwardChain> forward_candidate() {
  return {gru_forward<K>,        K::template Exchange<1>::kCluster,    K::kUnits, K::kRows,
          shared_bytes<K, 3, 1>, K::template Exchange<1>::memory_bytes};
}

template <class K>
Candidate<BackwardChain> backward_candidate() {
  return {gru_backward<K>,       K::template Exchange<3>::kCluster,    K::kUnits, K::kRows,
          shared_bytes<K, 1, 3>, K::template Exchange<3>::memory_bytes};
}

template <class Operand, class BackwardOperand, class Element, template <class, int, int, int> class Exchange,
          int kUnits, int kRowTiles>
void add(Candidates& to) {
  to.forward.push_back(forward_candidate<Kind<Operand, Element, Exchange, kUnits, kRowTiles>>());
  to.backward.push_back(backward_candidate<Kind<BackwardOperand, Element, Exchange, kUnits, kRowTiles>>());
}

template <class Operand, class BackwardOperand, class Element>
Candidates all_candidates() {
  Candidates result;
  add<Operand, BackwardOperand, Element, ClusterExchange, 32, 1>(result);
  add<Operand, BackwardOperand, Element, ClusterExchange, 32, 2>(result);
  add<Operand, BackwardOperand, Element, ClusterExchange, 32, 4>(result);
  add<Operand, BackwardOperand, Element, L2Exchange, 32, 1>(result);
  add<Operand, BackwardOperand, Element, L2Exchange, 32, 4>(result);
  add<Operand, BackwardOperand, Element, L2Exchange, 16, 4>(result);
  return result;
}

}  // namespace crrl::gru_cuda
