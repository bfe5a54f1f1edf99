// The instruction sets that float32 kernels are compiled for, and the choice among them at run time.
#pragma once

// CRRL_EACH_ISA(declare): declare(isa) for the namespace of each set of this processor family.
// CRRL_KERNELS(name): the functions of that name in these namespaces, as IsaKernels takes them.
#if defined(__x86_64__)
#define CRRL_EACH_ISA(declare) declare(avx512) declare(avx2) declare(plain)
#define CRRL_KERNELS(name) {avx512::name, avx2::name, nullptr, plain::name}
#elif defined(__aarch64__)
#define CRRL_EACH_ISA(declare) declare(neon) declare(plain)
#define CRRL_KERNELS(name) {nullptr, nullptr, neon::name, plain::name}
#else
#define CRRL_EACH_ISA(declare) declare(plain)
#define CRRL_KERNELS(name) {nullptr, nullptr, nullptr, plain::name}
#endif

namespace crrl {

// A function compiled once for each set; null if the processor family has no such set.
template <typename Kernel>
struct IsaKernels {
  Kernel avx512, avx2, neon, plain;
};

bool has_avx512();
bool has_avx2();  // and FMA
bool has_neon();

enum class Isa { kAvx512, kAvx2, kNeon, kPlain };

// The set of that name; null: the fastest that this processor has. Throws std::invalid_argument if there is no such
// set, or this processor does not have it.
Isa choose_isa(const char* name);

template <typename Kernel>
Kernel choose(const IsaKernels<Kernel>& kernels, const char* isa) {
  switch (choose_isa(isa)) {
    case Isa::kAvx512:
      return kernels.avx512;
    case Isa::kAvx2:
      return kernels.avx2;
    case Isa::kNeon:
      return kernels.neon;
    default:
      return kernels.plain;
  }
}

}  // namespace crrl
