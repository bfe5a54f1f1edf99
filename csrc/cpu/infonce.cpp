#include "infonce.hpp"

#include <algorithm>
#include <stdexcept>

#include "isa.hpp"

namespace crrl {

#define CRRL_DECLARE(isa)                     \
  namespace isa {                             \
  void info_nce(const InfoNce&, int threads); \
  }
CRRL_EACH_ISA(CRRL_DECLARE)

void info_nce(const InfoNce& params, int threads, const char* isa) {
  static constexpr IsaKernels<void (*)(const InfoNce&, int)> kernels = CRRL_KERNELS(info_nce);
  if (params.batch < 1 || params.features < 1 || params.keys < 1 || threads < 1) {
    throw std::invalid_argument("InfoNCE needs at least one query, feature, key and thread");
  }
  if (!(params.temperature > 0)) throw std::invalid_argument("the temperature must be above 0");
  choose(kernels, isa)(params, threads);
}

void enqueue(float* queue, int64_t keys, int64_t features, int64_t* pointer, const float* entering, int64_t count) {
  const int64_t start = (*pointer % keys + keys) % keys;
  for (int64_t i = std::max<int64_t>(0, count - keys); i < count; ++i) {
    std::copy_n(entering + i * features, features, queue + (start + i) % keys * features);
  }
  *pointer = (start + count) % keys;
}

}  // namespace crrl
