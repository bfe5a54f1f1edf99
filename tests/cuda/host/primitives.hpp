// The names of device/primitives.hpp on a CPU: a kernel's source, compiled against this file, runs there with a fiber
// for every GPU thread, in an order drawn at random. What that finds: missing barriers, wrong phases, buffers reused
// too early, lanes that part at a warp's instruction, deadlocks. What it cannot find: a missing fence or a cached load
// (memory is one for all, in order), and races between two primitives of one thread (nobody else runs in between).
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <string>

#include "types.hpp"

#define CRRL_DEVICE inline
#define CRRL_KERNEL(threads) void
#define CRRL_PARAMS const
#define CRRL_UNROLL
#define CRRL_NO_UNROLL

namespace crrl::gpu {

// --- Numbers: bit by bit what a GPU gives, whatever this thread does with denormals --------------------------------

inline uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float bits_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline float to_float(float x) { return x; }
inline float to_float(BFloat16 x) { return bits_float(static_cast<uint32_t>(x.bits) << 16); }

inline float to_float(Half x) {
  const uint32_t sign = (x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
  if (rest >= 0x7c00) return bits_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  if (rest >= 0x0400) return bits_float(sign | ((rest << 13) + (112u << 23)));
  const float tiny = static_cast<float>(rest) * 0x1p-24f;
  return bits_float(sign | float_bits(tiny));
}

inline void from_float(float x, float& to) { to = x; }

inline void from_float(float x, Half& to) {
  const uint32_t sign = float_bits(x) >> 16 & 0x8000u, rest = float_bits(x) & 0x7fffffffu;
  uint32_t half;
  if (rest > 0x7f800000u) {
    to.bits = 0x7fff;  // the one NaN that a GPU makes
    return;
  }
  if (rest >= 0x477ff000u) {  // 65520, halfway to what would be the next number
    half = 0x7c00;
  } else if (rest >= 0x38800000u) {
    half = (rest + 0xfffu + (rest >> 13 & 1) - (112u << 23)) >> 13;
  } else {  // the lowest bit of 0.5 is 2^-24, as that of half's denormals: the sum rounds to it
    half = float_bits(bits_float(rest) + 0.5f) - float_bits(0.5f);
  }
  to.bits = static_cast<uint16_t>(sign | half);
}

inline void from_float(float x, BFloat16& to) {
  const uint32_t bits = float_bits(x);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to.bits = static_cast<uint16_t>(nan ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

inline uint32_t to_tf32(float x) {
  const uint32_t bits = float_bits(x), rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return 0x7fffffffu;
  return (bits + 0x1000u) & ~0x1fffu;
}

inline float exponential(float x) { return std::exp(x); }
inline float hyperbolic_tangent(float x) { return std::tanh(x); }

// --- Threads and blocks --------------------------------------------------------------------------------------------

int thread_index();
int block_index();
unsigned char* shared_memory();  // all bits are set when the block begins: floating-point numbers of every type are NaN
void sync_block();
void sync_warp();
float shuffle_xor(float x, int mask);

void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

// --- Memory that other blocks write --------------------------------------------------------------------------------

Words load_l2(const void* address);
void rest();  // lets other threads go on, if it is so drawn
template <class Number>
Number load_l2_number(const Number* address) {
  rest();
  return *address;
}
void add_release(unsigned* counter, unsigned value);
unsigned load_acquire(const unsigned* counter);
void report(int* status, int code);

// Time stands still while any thread can do more than wait for another and while something sent is under way. When
// all that are left wait in vain, each look of theirs takes 100 ns, the next 200 ns, ...: so a bounded wait ends soon
// where it is to end, whatever its bound, and never elsewhere.
uint64_t nanoseconds();

// --- Thread-block clusters -----------------------------------------------------------------------------------------

constexpr bool kClusters = true;

void sync_cluster();
void barrier_init(uint64_t* barrier);
void barrier_expect(uint64_t* barrier, uint32_t bytes);
bool barrier_passed(uint64_t* barrier, unsigned parity);
void send(int rank, void* to, const Words& value, uint64_t* barrier);  // arrives at any later time, in any order

// --- The host's side -----------------------------------------------------------------------------------------------

class DeviceGuard {
 public:
  explicit DeviceGuard(int) {}
  ~DeviceGuard() {}
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
};

namespace detail {
const char* launch(const std::function<void()>& thread, const Launch& how);
int clusters_at_once(const Launch& how);
}  // namespace detail

// Has run when it returns. The blocks of a cluster run at once, so do all of a cooperative launch; else one by one.
template <class Params>
const char* launch(void (*kernel)(Params), const Launch& how, const Params& params) {
  return detail::launch([kernel, &params] { kernel(params); }, how);
}

template <class Params>
int clusters_at_once(void (*)(Params), const Launch& how) {
  return detail::clusters_at_once(how);
}

// --- What tests set and ask; all of it holds for the whole process -------------------------------------------------

namespace host {

// The launches from here on draw their order from this seed: the same seed, the same run.
void set_schedule(uint64_t seed);

// From here on, the `send`-th send and the `release`-th add_release get lost (1: the next one; 0: none).
void set_fault(int64_t send, int64_t release);

// What device_facts gives, and launch holds itself to. At first an sm_90 with 132 multiprocessors and 227 KiB.
void set_device_facts(const Device& facts);

const std::string& last_error();  // of the latest launch; empty: it went well
uint64_t turns();                 // how often the latest launch chose who goes next

}  // namespace host
}  // namespace crrl::gpu
