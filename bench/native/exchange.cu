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
template <class Gather, class Stored>
CRRL_DEVICE void run_gather(const ExchangeParams& params) {
  const Member member = member_of(params);
  Gather gather(member, gpu::shared_memory());
  const int row = gpu::thread_index() / kUnits, unit = gpu::thread_index() % kUnits;
  const int pieces = member.padded * static_cast<int>(sizeof(Stored)) / 16;
  uint32_t state = first_state();
  for (int round = 0; round < params.rounds; ++round) {
    gather.put(row, unit, static_cast<Stored>(state));
    gather.publish();
    gather.await();
    for (int i = unit % pieces; i < pieces; i += kWarp) state = mixed(state, gather.read(row, i / 4, i % 4));
    gpu::sync_block();  // as between the products and what comes of them
  }
  params.result[gpu::block_index() * kThreads + gpu::thread_index()] = state;
  gather.finish();
}

// A warp sends its row of the parts of all blocks, 16 bytes a lane at a time.
template <class Scatter>
CRRL_DEVICE void run_scatter(const ExchangeParams& params) {
  const Member member = member_of(params);
  Scatter scatter(member, gpu::shared_memory());
  constexpr int kPieces = kUnits / 4;
  const int row = gpu::thread_index() / kUnits, lane = gpu::thread_index() % kUnits;
  uint32_t state = first_state();
  for (int round = 0; round < params.rounds; ++round) {
    for (int i = lane; i < member.blocks * kPieces; i += kWarp) {
      const int owner = i / kPieces, piece = i % kPieces;
      const uint32_t first = state + static_cast<uint32_t>(owner * kUnits + piece * 4);
      scatter.send(owner, row * kPieces + piece, {{first, first + 1, first + 2, first + 3}});
    }
    scatter.publish();
    scatter.await();
    state = state * kMix + scatter.sum(row * kUnits + lane);
    gpu::sync_block();  // as between the gradients and their products
  }
  params.result[gpu::block_index() * kThreads + gpu::thread_index()] = state;
  scatter.finish();
}

template <class Exchange, class Stored>
CRRL_KERNEL(kThreads)
exchange_gather(CRRL_PARAMS ExchangeParams params) {
  using Gather = typename Exchange::template AllGather<Stored, kUnits, kRows>;
  if constexpr (gpu::kClusters || !Exchange::kCluster) run_gather<Gather, Stored>(params);
}

template <class Exchange>
CRRL_KERNEL(kThreads)
exchange_scatter(CRRL_PARAMS ExchangeParams params) {
  using Scatter = typename Exchange::template ReduceScatter<uint32_t, kUnits, kRows>;
  if constexpr (gpu::kClusters || !Exchange::kCluster) run_scatter<Scatter>(params);
}

struct Kernel {
  void (*run)(ExchangeParams) = nullptr;
  bool cluster = false;
  size_t shared = 0;  // bytes a block
  size_t memory = 0;  // bytes of global memory a team
};

template <class Exchange, class Stored>
Kernel gather(int blocks) {
  using Gather = typename Exchange::template AllGather<Stored, kUnits, kRows>;
  const int padded = blocks * kUnits;
  return {exchange_gather<Exchange, Stored>, Exchange::kCluster, Gather::shared_bytes(padded),
          Gather::memory_bytes(padded)};
}

template <class Exchange>
Kernel scatter(int blocks) {
  using Scatter = typename Exchange::template ReduceScatter<uint32_t, kUnits, kRows>;
  const int padded = blocks * kUnits;
  return {exchange_scatter<Exchange>, Exchange::kCluster, Scatter::shared_bytes(padded), Scatter::memory_bytes(padded)};
}

template <class Exchange>
Kernel kernel_of(const std::string& way, int itemsize, int blocks) {
  if (way == "scatter") return itemsize == 4 ? scatter<Exchange>(blocks) : Kernel{};
  if (way != "gather") return {};
  return itemsize == 4 ? gather<Exchange, uint32_t>(blocks) : gather<Exchange, uint16_t>(blocks);
}

// No kernel: there is no such case.
Kernel kernel_of(const ExchangeCase& which) {
  const bool l2 = which.way.rfind("l2 ", 0) == 0;
  const int fewest = l2 ? 1 : 2;  // st.async is undefined in a cluster of one
  if (which.blocks < fewest || which.blocks > 16 || which.teams < 1 || which.rounds < 0) return {};
  if (which.itemsize != 2 && which.itemsize != 4) return {};
  return l2 ? kernel_of<L2Exchange>(which.way.substr(3), which.itemsize, which.blocks)
            : kernel_of<ClusterExchange>(which.way, which.itemsize, which.blocks);
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
