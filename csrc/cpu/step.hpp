// The momentum update (the paper's Eq. 5) and a whole optimizer step on flat buffers, float32.
#pragma once

#include <cstdint>

namespace crrl {

// keys <- momentum * keys + (1 - momentum) * queries; at momentum 1 no bit of a key changes.
struct EmaUpdate {
  int64_t size;  // N
  float* keys;   // [N]
  const float* queries;
  int64_t boundary;      // elements before it follow with momentum_head,
  double momentum_head;  // the others with momentum_tail
  double momentum_tail;
};

// The arithmetic of torch.optim's SGD (without dampening) and Adam, and of torch.nn.utils.clip_grad_norm_.
struct FlatStep {
  int64_t size;  // N
  float* parameters;
  const float* gradients;
  float* first;        // SGD's momentum buffer, Adam's first moment
  float* second;       // Adam's second moment; null: SGD
  const float* rates;  // [4]: learning rate; momentum or beta1; for Adam 1 - beta1^t and 1 - beta2^t
  bool nesterov;
  double weight_decay;
  double beta2;
  double eps;
  double max_norm;  // 0: gradients are not clipped
  EmaUpdate ema;    // by the new parameters; keys null: none. Its size and queries are the step's
};

// Both use at most `threads` threads; the results do not depend on how many. `isa` as in isa.hpp. Throw
// std::invalid_argument for sizes or an instruction set that do not fit, before anything is written, and
// std::bad_alloc.
void ema_update(const EmaUpdate& params, int threads, const char* isa);
void flat_step(const FlatStep& params, int threads, const char* isa);

}  // namespace crrl
