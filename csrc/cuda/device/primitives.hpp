// What the kernels need of a GPU. host/primitives.hpp has the same names for a CPU, where every thread is a fiber: the
// two builds differ only in these two files.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "launch.hpp"

#define CRRL_DEVICE __device__ __forceinline__
// One block of `threads` threads on a multiprocessor: each thread may use up to 65,536 / threads registers.
#define CRRL_KERNEL(threads) __global__ void __launch_bounds__(threads, 1)
#define CRRL_PARAMS const __grid_constant__
#define CRRL_UNROLL _Pragma("unroll")
#define CRRL_NO_UNROLL _Pragma("unroll 1")

namespace crrl::gpu {

// --- Numbers -------------------------------------------------------------------------------------------------------

CRRL_DEVICE float to_float(float x) { return x; }
CRRL_DEVICE float to_float(Half x) { return __half2float(__ushort_as_half(x.bits)); }
CRRL_DEVICE float to_float(BFloat16 x) { return __bfloat162float(__ushort_as_bfloat16(x.bits)); }

// To the nearest, ties to even.
CRRL_DEVICE void from_float(float x, float& to) { to = x; }
CRRL_DEVICE void from_float(float x, Half& to) { to.bits = __half_as_ushort(__float2half_rn(x)); }
CRRL_DEVICE void from_float(float x, BFloat16& to) { to.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x)); }

// The nearest TF32 number (10 bits of mantissa, ties away from zero), as the bits of a float.
CRRL_DEVICE uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

CRRL_DEVICE uint32_t float_bits(float x) { return __float_as_uint(x); }
CRRL_DEVICE float bits_float(uint32_t bits) { return __uint_as_float(bits); }

CRRL_DEVICE float exponential(float x) { return expf(x); }
CRRL_DEVICE float hyperbolic_tangent(float x) { return tanhf(x); }

// --- Threads and blocks --------------------------------------------------------------------------------------------

CRRL_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
CRRL_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }

// The dynamic shared memory of the block, aligned to 16 bytes.
CRRL_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return memory;
}

CRRL_DEVICE void sync_block() { __syncthreads(); }
CRRL_DEVICE void sync_warp() { __syncwarp(); }
CRRL_DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }

// --- Matrix products of a warp: c [16, 8] += a [16, k] · b [k, 8], fragments laid out as PTX's mma.m16n8k8 / k16 ----

CRRL_DEVICE void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

CRRL_DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

CRRL_DEVICE void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// --- Memory that other blocks write --------------------------------------------------------------------------------

// Reads 16 bytes of global memory and bypasses the first-level cache, which does not see what other blocks write.
CRRL_DEVICE Words load_l2(const void* address) {
  const uint4 x = __ldcg(static_cast<const uint4*>(address));
  return {{x.x, x.y, x.z, x.w}};
}

template <class Number>
CRRL_DEVICE Number load_l2_number(const Number* address) {
  return __ldcg(address);
}

// A thread that reads the sum with load_acquire sees what this thread, and those synchronised with it, wrote before: a
// release is cumulative, so no separate fence is needed.
CRRL_DEVICE void add_release(unsigned* counter, unsigned value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(value) : "memory");
}

CRRL_DEVICE unsigned load_acquire(const unsigned* counter) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

// Tells the host, through host memory that the GPU can write.
CRRL_DEVICE void report(int* status, int code) {
  *static_cast<volatile int*>(status) = code;
  __threadfence_system();
}

CRRL_DEVICE uint64_t nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

// --- Thread-block clusters (sm_90 on) ------------------------------------------------------------------------------
// `barrier` is an mbarrier in the block's shared memory: a phase ends when all arrivals and all announced bytes are in.
// Kernels that use them must ask kClusters first: older GPUs have none.

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
constexpr bool kClusters = true;
#else
constexpr bool kClusters = false;
#endif

CRRL_DEVICE uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

CRRL_DEVICE uint32_t address_in(int rank, const void* pointer) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(pointer)), "r"(rank));
  return address;
}

// Waits for all threads of the cluster; what they wrote before, even to each other's shared memory, is visible after.
CRRL_DEVICE void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Initialises a barrier that one arrival per phase, and the bytes it announces, completes. Other threads may use it
// after sync_cluster.
CRRL_DEVICE void barrier_init(uint64_t* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// The one arrival of a phase, which ends once `bytes` more bytes have arrived.
CRRL_DEVICE void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

// Whether the phase of this parity (0, 1, 0, ... from the first on) has ended; may wait a little before it says no.
CRRL_DEVICE bool barrier_passed(uint64_t* barrier, unsigned parity) {
  uint32_t passed;
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(passed)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return passed != 0;
}

// Writes 16 bytes to the address of `to` in the shared memory of block `rank` of the cluster, then counts them on that
// block's `barrier`. Returns at once.
CRRL_DEVICE void send(int rank, void* to, const Words& value, uint64_t* barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1,%2,%3,%4}, [%5];" ::"r"(
                   address_in(rank, to)),
               "r"(value.word[0]), "r"(value.word[1]), "r"(value.word[2]), "r"(value.word[3]),
               "r"(address_in(rank, barrier))
               : "memory");
}

// --- The host side -------------------------------------------------------------------------------------------------

// Sets the calling thread's device while the object lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    cudaGetDevice(&before_);
    if (before_ != device) cudaSetDevice(device);
    now_ = device;
  }
  ~DeviceGuard() {
    if (before_ != now_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0, now_ = 0;
};

template <class Params>
const char* launch(void (*kernel)(Params), const Launch& how, const Params& params) {
  void* arguments[] = {const_cast<Params*>(&params)};
  return detail::launch(reinterpret_cast<const void*>(kernel), how, arguments);
}

// How many clusters of this launch can run at once; 0 if none can.
template <class Params>
int clusters_at_once(void (*kernel)(Params), const Launch& how) {
  return detail::clusters_at_once(reinterpret_cast<const void*>(kernel), how);
}

}  // namespace crrl::gpu
