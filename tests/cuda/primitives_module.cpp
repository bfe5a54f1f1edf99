// Small kernels, right ones and broken ones, for test_primitives.py.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "primitives.hpp"

namespace py = pybind11;
using namespace crrl::gpu;

namespace {

using Error = std::optional<std::string>;
Error error_of(const char* error) { return error ? Error(error) : std::nullopt; }

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

// --- One warp ------------------------------------------------------------------------------------------------------

struct MmaParams {
  const uint32_t *a, *b;  // [32, 4] and [32, 2]
  float* c;               // [32, 4]
};

using Mma = void (*)(float (&)[4], const uint32_t (&)[4], uint32_t, uint32_t);

template <Mma mma>
CRRL_KERNEL(32)
product(CRRL_PARAMS MmaParams params) {
  const int lane = thread_index();
  uint32_t a[4];
  float c[4];
  for (int i = 0; i < 4; ++i) a[i] = params.a[lane * 4 + i], c[i] = params.c[lane * 4 + i];
  mma(c, a, params.b[lane * 2], params.b[lane * 2 + 1]);
  for (int i = 0; i < 4; ++i) params.c[lane * 4 + i] = c[i];
}

py::tuple run_mma(const std::string& type, const Array<uint32_t>& a, const Array<uint32_t>& b, const Array<float>& c) {
  Array<float> sum(c.request());
  const MmaParams params{a.data(), b.data(), sum.mutable_data()};
  const auto kernel = type == "tf32" ? product<mma_tf32> : type == "fp16" ? product<mma_f16> : product<mma_bf16>;
  const char* const error = launch(kernel, {1, 1, 32, 0, false, nullptr}, params);
  return py::make_tuple(error_of(error), sum);
}

struct ShuffleParams {
  float* out;  // [32, 32]: of each mask, what each lane got
};

CRRL_KERNEL(32) shuffles(CRRL_PARAMS ShuffleParams params) {
  for (int mask = 0; mask < 32; ++mask) {
    params.out[mask * 32 + thread_index()] = shuffle_xor(static_cast<float>(thread_index() + 100 * mask), mask);
  }
}

py::tuple run_shuffles() {
  Array<float> out({32, 32});
  const char* const error = launch(shuffles, {1, 1, 32, 0, false, nullptr}, {out.mutable_data()});
  return py::make_tuple(error_of(error), out);
}

// --- One block at a time -------------------------------------------------------------------------------------------

struct BlockParams {
  int threads;
  float* out;  // [blocks, threads]
};

// Every thread reads what another one wrote.
template <bool synced>
CRRL_KERNEL(256)
reverse(CRRL_PARAMS BlockParams params) {
  float* const shared = reinterpret_cast<float*>(shared_memory());
  const int thread = thread_index();
  shared[thread] = static_cast<float>(block_index() * 1000 + thread);
  if (synced) sync_block();
  params.out[block_index() * params.threads + thread] = shared[params.threads - 1 - thread];
}

py::tuple run_reverse(bool synced, int blocks, int threads) {
  Array<float> out({blocks, threads});
  const Launch how{blocks, 1, threads, sizeof(float) * static_cast<size_t>(threads), false, nullptr};
  const char* const error = launch(synced ? reverse<true> : reverse<false>, how, {threads, out.mutable_data()});
  return py::make_tuple(error_of(error), out);
}

// --- All-gathers: in each step every block sends a word of each of its threads to all blocks ------------------------

struct GatherParams {
  int blocks, steps, threads;
  uint64_t patience;
  uint32_t* out;  // [blocks, threads]
  int* status;
  // Of gather_l2:
  Words* exchange;    // [2, blocks, threads]
  unsigned* counter;  // of blocks that have written theirs
};

template <class Passed>
CRRL_DEVICE bool wait_bounded(const Passed& passed, const GatherParams& params) {
  if (passed()) return true;
  for (const uint64_t start = nanoseconds(); !passed();) {
    if (nanoseconds() - start <= params.patience) continue;
    report(params.status, 1);
    return false;
  }
  return true;
}

enum class Protocol { kRight, kOneBuffer, kWrongParity, kNoSync };

// Through shared memory of a cluster: half of the threads send. kOneBuffer: a block that is ahead overwrites what
// another one still reads.
template <Protocol protocol>
CRRL_KERNEL(256)
gather_cluster(CRRL_PARAMS GatherParams params) {
  constexpr int kBuffers = protocol == Protocol::kOneBuffer ? 1 : 2;
  const int thread = thread_index(), threads = params.threads, rank = block_index() % params.blocks;
  const int words = params.blocks * threads;
  uint64_t* const barrier = reinterpret_cast<uint64_t*>(shared_memory());
  Words* const buffer = reinterpret_cast<Words*>(shared_memory() + 16);
  uint32_t* const mine = reinterpret_cast<uint32_t*>(buffer + 2 * words);
  const auto bytes = static_cast<uint32_t>(sizeof(Words)) * static_cast<uint32_t>(words);
  if (thread == 0) {
    for (int i = 0; i < kBuffers; ++i) barrier_init(barrier + i);
    for (int i = 0; i < kBuffers; ++i) barrier_expect(barrier + i, bytes);
  }
  sync_cluster();
  uint32_t x = static_cast<uint32_t>(block_index() * 1000 + thread);
  for (int step = 0; step < params.steps; ++step) {
    const int i = step % kBuffers;
    mine[thread] = x;
    if (protocol != Protocol::kNoSync) sync_block();
    for (int word = thread; thread < threads / 2 && word < threads; word += threads / 2) {
      for (int to = 0; to < params.blocks; ++to) {
        send(to, buffer + i * words + rank * threads + word, {{mine[word], 0, 0, mine[word]}}, barrier + i);
      }
    }
    const int parity = protocol == Protocol::kWrongParity ? 1 : step / kBuffers % 2;
    if (!wait_bounded([&] { return barrier_passed(barrier + i, static_cast<unsigned>(parity)); }, params)) return;
    for (int from = 0; from < params.blocks; ++from) {
      x = x * 31 + buffer[i * words + from * threads + (thread + 1) % threads].word[3];
    }
    if (thread == 0) barrier_expect(barrier + i, bytes);
  }
  params.out[block_index() * threads + thread] = x;
  sync_cluster();
}

// Through global memory.
template <Protocol protocol>
CRRL_KERNEL(256)
gather_l2(CRRL_PARAMS GatherParams params) {
  const int thread = thread_index(), block = block_index(), words = params.blocks * params.threads;
  uint32_t x = static_cast<uint32_t>(block * 1000 + thread);
  for (int step = 0; step < params.steps; ++step) {
    Words* const buffer = params.exchange + (protocol == Protocol::kOneBuffer ? 0 : step % 2 * words);
    buffer[block * params.threads + thread] = {{x, 0, 0, x}};
    if (protocol != Protocol::kNoSync) sync_block();
    if (thread == 0) add_release(params.counter, 1);
    const auto all = static_cast<unsigned>((step + 1) * params.blocks);
    if (!wait_bounded([&] { return load_acquire(params.counter) >= all; }, params)) return;
    for (int from = 0; from < params.blocks; ++from) {
      x = x * 31 + load_l2(buffer + from * params.threads + (thread + 1) % params.threads).word[3];
    }
  }
  params.out[block * params.threads + thread] = x;
}

using Gather = void (*)(GatherParams);

Gather gather_of(const std::string& way) {
  if (way == "cluster") return gather_cluster<Protocol::kRight>;
  if (way == "cluster, one buffer") return gather_cluster<Protocol::kOneBuffer>;
  if (way == "cluster, wrong parity") return gather_cluster<Protocol::kWrongParity>;
  if (way == "cluster, no sync") return gather_cluster<Protocol::kNoSync>;
  if (way == "l2") return gather_l2<Protocol::kRight>;
  if (way == "l2, one buffer") return gather_l2<Protocol::kOneBuffer>;
  if (way == "l2, no sync") return gather_l2<Protocol::kNoSync>;
  throw py::value_error(way);
}

py::tuple run_gather(const std::string& way, int teams, int blocks, int threads, int steps, uint64_t patience) {
  const auto words = static_cast<size_t>(blocks) * static_cast<size_t>(threads);
  std::vector<Words> exchange(2 * words);
  unsigned counter = 0;
  int status = 0;
  Array<uint32_t> out({teams * blocks, threads});
  const bool cluster = way.rfind("cluster", 0) == 0;
  const size_t shared = cluster ? 16 + 2 * words * sizeof(Words) + static_cast<size_t>(threads) * sizeof(uint32_t) : 0;
  const Launch how{teams * blocks, cluster ? blocks : 1, threads, shared, !cluster, nullptr};
  const GatherParams params{blocks, steps, threads, patience, out.mutable_data(), &status, exchange.data(), &counter};
  const char* const error = launch(gather_of(way), how, params);
  return py::make_tuple(error_of(error), status, out);
}

// --- Time ----------------------------------------------------------------------------------------------------------

struct TimeParams {
  int rounds;
  unsigned* counter;
  uint64_t* waited;
};

// One warp works for long, the other one waits for it.
CRRL_KERNEL(64) long_work(CRRL_PARAMS TimeParams params) {
  if (thread_index() < 32) {
    for (int i = 0; i < params.rounds; ++i) sync_warp();
    if (thread_index() == 0) add_release(params.counter, 1);
  } else {
    const uint64_t start = nanoseconds();
    while (load_acquire(params.counter) == 0) {
    }
    if (thread_index() == 32) *params.waited = nanoseconds() - start;
  }
}

py::tuple run_long_work(int rounds) {
  unsigned counter = 0;
  uint64_t waited = ~uint64_t{0};
  const char* const error = launch(long_work, {1, 1, 64, 0, false, nullptr}, {rounds, &counter, &waited});
  return py::make_tuple(error_of(error), waited);
}

// --- What must not be done -----------------------------------------------------------------------------------------

struct NoParams {};
constexpr size_t kShared = 1024;

CRRL_DEVICE uint64_t* ready_barrier() {
  uint64_t* const barrier = reinterpret_cast<uint64_t*>(shared_memory());
  if (thread_index() == 0) barrier_init(barrier);
  sync_cluster();
  return barrier;
}

CRRL_KERNEL(64) divergence(CRRL_PARAMS NoParams) {
  if (thread_index() % 2) {
    sync_warp();
  } else {
    shuffle_xor(0, 1);
  }
}
CRRL_KERNEL(64) lane_gone(CRRL_PARAMS NoParams) {
  if (thread_index() != 5) sync_warp();
}
CRRL_KERNEL(64) warp_skips_sync_block(CRRL_PARAMS NoParams) {
  if (thread_index() < 32) sync_block();
}
CRRL_KERNEL(64) unbounded_wait(CRRL_PARAMS NoParams) {
  uint64_t* const barrier = ready_barrier();
  while (!barrier_passed(barrier, 0)) {
  }
}
CRRL_KERNEL(64) overrun(CRRL_PARAMS NoParams) { shared_memory()[kShared + static_cast<size_t>(thread_index())] = 0; }
CRRL_KERNEL(64) send_outside(CRRL_PARAMS NoParams) {
  uint64_t* const barrier = ready_barrier();
  send(1, shared_memory() + kShared, {}, barrier);
}
CRRL_KERNEL(64) send_unaligned(CRRL_PARAMS NoParams) {
  uint64_t* const barrier = ready_barrier();
  send(1, shared_memory() + 24, {}, barrier);
}
CRRL_KERNEL(64) send_to_nobody(CRRL_PARAMS NoParams) {
  uint64_t* const barrier = ready_barrier();
  send(2, shared_memory() + 16, {}, barrier);
}
CRRL_KERNEL(64) expect_twice(CRRL_PARAMS NoParams) {
  uint64_t* const barrier = ready_barrier();
  barrier_expect(barrier, 16);
}
CRRL_KERNEL(64) no_init(CRRL_PARAMS NoParams) { barrier_expect(reinterpret_cast<uint64_t*>(shared_memory()), 16); }
CRRL_KERNEL(64) leaves_early(CRRL_PARAMS NoParams) {
  uint64_t* const barrier = ready_barrier();
  if (block_index() == 0) send(1, shared_memory() + 16, {}, barrier);
}
CRRL_KERNEL(64) unaligned_load(CRRL_PARAMS NoParams) { load_l2(shared_memory() + 8); }
CRRL_KERNEL(64) fine(CRRL_PARAMS NoParams) { sync_cluster(); }

Error run_misuse(const std::string& name) {
  const std::pair<const char*, void (*)(NoParams)> kernels[] = {{"divergence", divergence},
                                                                {"lane_gone", lane_gone},
                                                                {"warp_skips_sync_block", warp_skips_sync_block},
                                                                {"unbounded_wait", unbounded_wait},
                                                                {"overrun", overrun},
                                                                {"send_outside", send_outside},
                                                                {"send_unaligned", send_unaligned},
                                                                {"send_to_nobody", send_to_nobody},
                                                                {"expect_twice", expect_twice},
                                                                {"no_init", no_init},
                                                                {"leaves_early", leaves_early},
                                                                {"unaligned_load", unaligned_load},
                                                                {"fine", fine}};
  for (const auto& [known, kernel] : kernels) {
    if (name == known) return error_of(launch(kernel, {2, 2, 64, kShared, false, nullptr}, NoParams{}));
  }
  throw py::value_error(name);
}

CRRL_KERNEL(1024) nothing(CRRL_PARAMS NoParams) {}

Error run_launch(int blocks, int cluster, int threads, size_t shared, bool cooperative) {
  return error_of(launch(nothing, {blocks, cluster, threads, shared, cooperative, nullptr}, NoParams{}));
}

// What shared memory holds before anybody writes.
CRRL_KERNEL(32) unwritten(CRRL_PARAMS BlockParams params) {
  params.out[block_index() * params.threads + thread_index()] =
      reinterpret_cast<float*>(shared_memory())[thread_index()];
  reinterpret_cast<float*>(shared_memory())[thread_index()] = 0;
}

py::tuple run_unwritten(int blocks) {
  Array<float> out({blocks, 32});
  const char* const error = launch(unwritten, {blocks, 1, 32, 128, false, nullptr}, {32, out.mutable_data()});
  return py::make_tuple(error_of(error), out);
}

template <class T>
uint16_t bits_of(float x) {
  T to;
  from_float(x, to);
  return to.bits;
}

}  // namespace

PYBIND11_MODULE(crrl_cuda_primitives, m) {
  m.def("half_to_float", py::vectorize([](uint16_t x) { return to_float(Half{x}); }));
  m.def("bfloat16_to_float", py::vectorize([](uint16_t x) { return to_float(BFloat16{x}); }));
  m.def("float_to_half", py::vectorize([](float x) { return bits_of<Half>(x); }));
  m.def("float_to_bfloat16", py::vectorize([](float x) { return bits_of<BFloat16>(x); }));
  m.def("float_to_tf32", py::vectorize([](float x) { return to_tf32(x); }));
  m.def("mma", run_mma);
  m.def("shuffles", run_shuffles);
  m.def("reverse", run_reverse);
  m.def("gather", run_gather);
  m.def("long_work", run_long_work);
  m.def("misuse", run_misuse);
  m.def("launch", run_launch);
  m.def("unwritten", run_unwritten);
  m.def("set_schedule", host::set_schedule);
  m.def("set_fault", host::set_fault);
  m.def("set_device", [](int major, int minor, int multiprocessors, size_t shared, bool cooperative) {
    host::set_device_facts({major, minor, multiprocessors, shared, cooperative});
  });
  m.def("device", [](int device) {
    Device facts{};
    const char* const error = device_facts(device, &facts);
    return py::make_tuple(error_of(error), facts.major, facts.minor, facts.multiprocessors, facts.shared,
                          facts.cooperative);
  });
  m.def("clusters_at_once", [](int cluster, size_t shared) {
    return clusters_at_once(nothing, {cluster, cluster, 256, shared, false, nullptr});
  });
  m.def("last_error", [] { return host::last_error(); });
  m.def("turns", host::turns);
}
