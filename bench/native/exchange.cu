#include "exchange.hpp"
#include "gru_exchange.hpp"
#include "gru_params.hpp"
#include "primitives.hpp"

namespace crrl::gru_cuda {

namespace {

constexpr int kUnits = 32, kRows = 8;
constexpr uint32_t kMix = 0x9e3779b1u;

struct ExchangeParams {
  int blocks, rounds;
  unsigned char* counters;  // kCounterBytes a team, 0
  unsigned char* memory;
  size_t memory_stride;
  uint32_t* result;
  int* status;
  uint64_t patience_ns;
};

CRRL_DEVICE Member member_of(const ExchangeParams& params) {
  const int team = gpu::block_index() / params.blocks;
  return {gpu::block_index() % params.blocks,
          params.blocks,
          params.blocks * kUnits,
          params.status,
          params.patience_ns,
          reinterpret_cast<unsigned*>(params.counters + team * kCounterBytes),
          params.memory + team * params.memory_stride};
}

CRRL_DEVICE uint32_t mixed(uint32_t state, const Words& words) {
  CRRL_UNROLL
  for (int i = 0; i < 4; ++i) state = state * kMix + words.word[i];
  return state;
}

CRRL_DEVICE uint32_t first_state() {
  return static_cast<uint32_t>(gpu::block_index() * kThreads + gpu::thread_index());
}

// A warp reads its row's vector once, 16 bytes a lane at a time.
template <class E, class Stored, int kGates>
CRRL_DEVICE void run_gather(const ExchangeParams& params) {
  const Member member = member_of(params);
  E exchange(member, gpu::shared_memory());
  const int row = gpu::thread_index() / kUnits, unit = gpu::thread_index() % kUnits;
  const int pieces = kGates * member.padded * static_cast<int>(sizeof(Stored)) / 16;
  uint32_t state = first_state();
  for (int round = 0; round < params.rounds; ++round) {
    CRRL_UNROLL
    for (int gate = 0; gate < kGates; ++gate) {
      exchange.put(gate, row, unit, static_cast<Stored>(state + static_cast<uint32_t>(gate)));
    }
    exchange.publish();
    exchange.await();
    for (int i = unit % pieces; i < pieces; i += kWarp) state = mixed(state, exchange.read(row, i * 16));
  }
  params.result[gpu::block_index() * kThreads + gpu::thread_index()] = state;
  exchange.finish();
}

// Two buffers take turns as in ClusterExchange, and for the same reasons. [from][row][unit], the owner's.
class Scatter {
 public:
  static constexpr size_t shared_bytes(int blocks) { return 16 + 2 * static_cast<size_t>(blocks) * kTile; }

  CRRL_DEVICE Scatter(const Member& member, unsigned char* shared)
      : member_(member), barriers_(reinterpret_cast<uint64_t*>(shared)), parts_(shared + 16) {
    if (gpu::thread_index() == 0) {
      for (int i = 0; i < 2; ++i) gpu::barrier_init(barriers_ + i);
      for (int i = 0; i < 2; ++i) expect(i);
    }
    gpu::sync_cluster();
  }

  // The warp's row of the parts of all owners; part(owner, piece): four units of it.
  template <class Part>
  CRRL_DEVICE void send(const Part& part) {
    const int row = gpu::thread_index() / kWarp, lane = gpu::thread_index() % kWarp;
    unsigned char* to = buffer(round_) + member_.rank * kTile + row * kRowBytes;
    for (int i = lane; i < member_.blocks * kPieces; i += kWarp) {
      const int owner = i / kPieces, piece = i % kPieces;
      gpu::send(owner, to + piece * 16, part(owner, piece), barriers_ + round_ % 2);
    }
    ++round_;
  }

  // The thread's row and unit, added up in the order of the blocks.
  CRRL_DEVICE uint32_t sum() {
    const unsigned round = round_ - 1;
    alive_ = alive_ && wait(member_, [&] { return gpu::barrier_passed(barriers_ + round % 2, round / 2 % 2); });
    if (alive_ && gpu::thread_index() == 0) expect(round % 2);
    const unsigned char* mine = buffer(round) + gpu::thread_index() * sizeof(uint32_t);
    uint32_t total = 0;
    for (int from = 0; from < member_.blocks; ++from) total += *reinterpret_cast<const uint32_t*>(mine + from * kTile);
    gpu::sync_warp();  // all lanes have read before one of them sends
    return total;
  }

  CRRL_DEVICE void finish() { gpu::sync_cluster(); }

 private:
  static constexpr int kRowBytes = kUnits * static_cast<int>(sizeof(uint32_t)), kTile = kRows * kRowBytes;
  static constexpr int kPieces = kRowBytes / 16;

  CRRL_DEVICE void expect(int buffer) {
    gpu::barrier_expect(barriers_ + buffer, static_cast<uint32_t>(member_.blocks * kTile));
  }

  CRRL_DEVICE unsigned char* buffer(unsigned round) const { return parts_ + round % 2 * (member_.blocks * kTile); }

  const Member member_;
  uint64_t* barriers_;
  unsigned char* parts_;
  unsigned round_ = 0;
  bool alive_ = true;
};

CRRL_DEVICE void run_scatter(const ExchangeParams& params) {
  Scatter scatter(member_of(params), gpu::shared_memory());
  uint32_t state = first_state();
  for (int round = 0; round < params.rounds; ++round) {
    scatter.send([&](int owner, int piece) {
      const uint32_t first = state + static_cast<uint32_t>(owner * kUnits + piece * 4);
      return Words{{first, first + 1, first + 2, first + 3}};
    });
    state = state * kMix + scatter.sum();
  }
  params.result[gpu::block_index() * kThreads + gpu::thread_index()] = state;
  scatter.finish();
}

template <class E, class Stored, int kGates>
CRRL_KERNEL(kThreads)
exchange_gather(CRRL_PARAMS ExchangeParams params) {
  if constexpr (gpu::kClusters || !E::kCluster) run_gather<E, Stored, kGates>(params);
}

CRRL_KERNEL(kThreads)
exchange_scatter(CRRL_PARAMS ExchangeParams params) {
  if constexpr (gpu::kClusters) run_scatter(params);
}

struct Kernel {
  void (*run)(ExchangeParams) = nullptr;
  bool cluster = false;
  size_t shared = 0;  // bytes a block
  size_t memory = 0;  // bytes of global memory a team
};

template <template <class, int, int, int> class Exchange, class Stored, int kGates>
Kernel gather(int blocks) {
  using E = Exchange<Stored, kGates, kUnits, kRows>;
  const int padded = blocks * kUnits;
  return {exchange_gather<E, Stored, kGates>, E::kCluster, E::shared_bytes(padded), E::memory_bytes(padded)};
}

template <template <class, int, int, int> class Exchange>
Kernel gather(const ExchangeCase& which) {
  if (which.itemsize == 4) {
    return which.gates == 1 ? gather<Exchange, uint32_t, 1>(which.blocks) : gather<Exchange, uint32_t, 3>(which.blocks);
  }
  return which.gates == 1 ? gather<Exchange, uint16_t, 1>(which.blocks) : gather<Exchange, uint16_t, 3>(which.blocks);
}

// No kernel: there is no such case.
Kernel kernel_of(const ExchangeCase& which) {
  const bool sizes = which.blocks >= 1 && which.blocks <= 16 && which.teams >= 1 && which.rounds >= 0;
  const bool numbers = (which.itemsize == 2 || which.itemsize == 4) && (which.gates == 1 || which.gates == 3);
  if (!sizes || !numbers) return {};
  if (which.blocks < 2 && which.way != "l2") return {};  // st.async is undefined in a cluster of one
  if (which.way == "cluster") return gather<ClusterExchange>(which);
  if (which.way == "l2") return gather<L2Exchange>(which);
  if (which.way == "scatter") return {exchange_scatter, true, Scatter::shared_bytes(which.blocks), 0};
  return {};
}

}  // namespace

size_t exchange_workspace(const ExchangeCase& which) {
  return static_cast<size_t>(which.teams) * (kCounterBytes + kernel_of(which).memory);
}

std::string exchange(const ExchangeCase& which, void* result, void* workspace, int* status, int64_t patience_ns,
                     int device, void* stream) {
  const Kernel kernel = kernel_of(which);
  if (kernel.run == nullptr) return "there is no such exchange";
  gpu::Device facts;
  if (const char* error = gpu::device_facts(device, &facts)) return error;
  if (kernel.cluster && facts.major < 9) return "no thread-block clusters before sm_90";
  const gpu::DeviceGuard guard(device);
  auto* counters = static_cast<unsigned char*>(workspace);
  const size_t counted = static_cast<size_t>(which.teams) * kCounterBytes;
  const ExchangeParams params = {which.blocks,  which.rounds,
                                 counters,      counters + counted,
                                 kernel.memory, static_cast<uint32_t*>(result),
                                 status,        static_cast<uint64_t>(patience_ns)};
  const gpu::Launch how = {
      which.blocks * which.teams, kernel.cluster ? which.blocks : 1, kThreads, kernel.shared, !kernel.cluster, stream};
  const char* error = gpu::zero(counters, counted, stream);
  if (error == nullptr) error = gpu::launch(kernel.run, how, params);
  return error == nullptr ? "" : error;
}

}  // namespace crrl::gru_cuda
