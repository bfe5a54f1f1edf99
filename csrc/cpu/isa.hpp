// The instruction sets that float32 kernels are compiled for, and the choice among them at run time.
#pragma once

namespace crrl {

// A function compiled once for each set; null where the processor's family has no such set.
template <typename Kernel>
struct IsaKernels {
  Kernel avx512, avx2, plain;
};

bool has_avx512();
bool has_avx2();  // and FMA

enum class Isa { kAvx512, kAvx2, kPlain };

// The set of that name, or for null the fastest that this processor has. Throws std::invalid_argument where there is no
// such set, or this processor has not got it.
Isa choose_isa(const char* name);

template <typename Kernel>
Kernel choose(const IsaKernels<Kernel>& kernels, const char* isa) {
  const Isa chosen = choose_isa(isa);
  return chosen == Isa::kAvx512 ? kernels.avx512 : chosen == Isa::kAvx2 ? kernels.avx2 : kernels.plain;
}

}  // namespace crrl
