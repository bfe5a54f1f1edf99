#include "isa.hpp"

#include <stdexcept>
#include <string>

namespace crrl {
namespace {

struct Known {
  const char* name;
  Isa isa;
  bool available;
};

}  // namespace

bool has_avx512() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
  return false;
#endif
}

bool has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

bool has_neon() {
#if defined(__aarch64__)
  return true;
#else
  return false;
#endif
}

Isa choose_isa(const char* name) {
  const Known fastest_first[] = {{"avx512", Isa::kAvx512, has_avx512()},
                                 {"avx2", Isa::kAvx2, has_avx2()},
                                 {"neon", Isa::kNeon, has_neon()},
                                 {"plain", Isa::kPlain, true}};
  for (const Known& known : fastest_first) {
    if (name != nullptr && known.name != std::string(name)) continue;
    if (known.available) return known.isa;
    if (name != nullptr) throw std::invalid_argument("this processor has no " + std::string(name));
  }
  throw std::invalid_argument("no instruction set named " + std::string(name) + " for float32");
}

}  // namespace crrl
