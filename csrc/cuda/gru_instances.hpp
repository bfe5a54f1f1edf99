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

template <class Operand, class Element>
ForwardCandidates forward_candidates() {
  return {forward_candidate<Kind<Operand, Element, ClusterExchange, 32, 1>>(),
          forward_candidate<Kind<Operand, Element, ClusterExchange, 32, 2>>(),
          forward_candidate<Kind<Operand, Element, ClusterExchange, 32, 4>>(),
          forward_candidate<Kind<Operand, Element, L2Exchange, 32, 1>>(),
          forward_candidate<Kind<Operand, Element, L2Exchange, 32, 4>>(),
          forward_candidate<Kind<Operand, Element, L2Exchange, 16, 4>>()};
}

template <class Operand, class Element>
BackwardCandidates backward_candidates() {
  return {backward_candidate<Kind<Operand, Element, ClusterExchange, 32, 1>>(),
          backward_candidate<Kind<Operand, Element, ClusterExchange, 32, 2>>(),
          backward_candidate<Kind<Operand, Element, ClusterExchange, 32, 4>>(),
          backward_candidate<Kind<Operand, Element, L2Exchange, 32, 1>>(),
          backward_candidate<Kind<Operand, Element, L2Exchange, 32, 4>>(),
          backward_candidate<Kind<Operand, Element, L2Exchange, 16, 4>>()};
}

}  // namespace crrl::gru_cuda
