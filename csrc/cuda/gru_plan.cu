#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>
#include <type_traits>

#include "gru_candidates.hpp"
#include "gru_params.hpp"
#include "primitives.hpp"

namespace crrl::gru_cuda {

namespace {

constexpr int kLargestCluster = 16;
constexpr int kLargestHidden = 1024;
constexpr int kUnitsOfChunk = 32;  // padded units are whole chunks of 16-bit numbers

const Candidates& candidates(Mode mode) {
  switch (mode) {
    case Mode::kTF32:
      return candidates_tf32();
    case Mode::kFP32:
      return candidates_fp32();
    case Mode::kBF16:
      return candidates_bf16();
    default:
      return candidates_fp16();
  }
}

template <class Chain>
const std::vector<Candidate<Chain>>& candidates_of(Mode mode) {
  if constexpr (std::is_same_v<Chain, ForwardChain>) {
    return candidates(mode).forward;
  } else {
    return candidates(mode).backward;
  }
}

int divided_up(int a, int b) { return (a + b - 1) / b; }

// Clusters have 2, 4, 8, ... blocks, even if some of them are padding: st.async is defined only between several blocks.
// Other teams have as many blocks as the units need.
template <class Chain>
int team_blocks(const Candidate<Chain>& candidate, int hidden) {
  if (!candidate.cluster) return divided_up(hidden, kUnitsOfChunk) * (kUnitsOfChunk / candidate.units);
  int blocks = 2;
  while (blocks * candidate.units < hidden) blocks *= 2;
  return blocks;
}

template <class Chain>
gpu::Launch launch_of(const Candidate<Chain>& candidate, int blocks, int teams, size_t shared, void* stream) {
  return {blocks * teams, candidate.cluster ? blocks : 1, kThreads, shared, !candidate.cluster, stream};
}

// The number of teams that can run at once. The driver answers slowly, so the answer is kept.
template <class Chain>
int teams_at_once(const Candidate<Chain>& candidate, int blocks, size_t shared, int device, const gpu::Device& facts) {
  if (!candidate.cluster) return facts.multiprocessors / blocks;
  static std::mutex mutex;
  static std::map<std::tuple<const void*, int, int>, int> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto key = std::make_tuple(reinterpret_cast<const void*>(candidate.kernel), blocks, device);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  const gpu::DeviceGuard guard(device);
  return known[key] = gpu::clusters_at_once(candidate.kernel, launch_of(candidate, blocks, 1, shared, nullptr));
}

// Whether the device can run a candidate, and how; if not, `reason` says why.
template <class Chain>
Plan planned(const Candidate<Chain>& candidate, const Sizes& sizes, int device, const gpu::Device& facts) {
  Plan plan;
  const std::string name = candidate.cluster ? "cluster" : "l2";
  plan.blocks = team_blocks(candidate, sizes.hidden);
  plan.units = candidate.units;
  plan.rows = candidate.rows;
  plan.shared = candidate.shared(plan.blocks * plan.units);
  if (facts.major < 8) {
    plan.reason = "it needs a GPU of sm_80 or later";
  } else if (candidate.cluster && facts.major < 9) {
    plan.reason = "no thread-block clusters before sm_90";
  } else if (candidate.cluster && plan.blocks > kLargestCluster) {
    plan.reason = "a cluster has at most 16 blocks";
  } else if (!candidate.cluster && !facts.cooperative) {
    plan.reason = "no cooperative launches";
  } else if (plan.shared > facts.shared) {
    plan.reason = "too little shared memory for the weights";
  } else {
    plan.teams = teams_at_once(candidate, plan.blocks, plan.shared, device, facts);
    if (plan.teams == 0) plan.reason = "the device cannot run a team of its blocks at once";
  }
  if (plan.teams == 0) return plan;
  const int needed = sizes.chains * divided_up(sizes.batch, plan.rows);
  plan.teams = std::min(plan.teams, needed);
  if (!candidate.cluster) plan.workspace = plan.teams * (kCounterBytes + candidate.memory(plan.blocks * plan.units));
  plan.variant = name;
  return plan;
}

// The first exchange that can run; of its tiles, those that take the fewest turns, and of these the smallest.
template <class Chain>
Plan choose(Mode mode, const Sizes& sizes, int device, const std::string& variant, const gpu::Device& facts) {
  Plan best;
  best.reason = "no variant " + variant;
  int fewest = 0;
  for (const auto& candidate : candidates_of<Chain>(mode)) {
    const std::string name = candidate.cluster ? "cluster" : "l2";
    if (!variant.empty() && variant != name) continue;
    const Plan plan = planned(candidate, sizes, device, facts);
    if (plan.variant.empty()) {
      if (best.variant.empty()) best.reason = plan.reason;
      continue;
    }
    if (!best.variant.empty() && best.variant != plan.variant) break;
    const int turns = divided_up(sizes.chains * divided_up(sizes.batch, plan.rows), plan.teams);
    if (best.variant.empty() || turns < fewest) {
      best = plan;
      fewest = turns;
    }
  }
  return best;
}

template <class Chain>
std::string run(Mode mode, const Sizes& sizes, const Chain* chains, const Plan& plan, void* workspace, int* status,
                int64_t patience_ns, int device, void* stream) {
  for (const auto& candidate : candidates_of<Chain>(mode)) {
    if (candidate.cluster != (plan.variant == "cluster") || candidate.units != plan.units ||
        candidate.rows != plan.rows) {
      continue;
    }
    const gpu::DeviceGuard guard(device);
    Params<Chain> params = {};
    std::copy_n(chains, sizes.chains, params.chains);
    params.sizes = sizes;
    params.blocks = plan.blocks;
    params.padded = plan.blocks * plan.units;
    params.counters = static_cast<unsigned char*>(workspace);
    params.memory = params.counters + plan.teams * kCounterBytes;
    params.memory_stride = candidate.memory(params.padded);
    params.status = status;
    params.patience_ns = static_cast<uint64_t>(patience_ns);
    const int teams = sizes.chains * divided_up(sizes.batch, plan.rows);
    // The GPU starts a cluster once all of it fits; blocks that exchange through memory must all run at once.
    const int at_once = candidate.cluster ? teams : plan.teams;
    for (int first = 0; first < teams; first += at_once) {
      params.first_team = first;
      const int count = std::min(at_once, teams - first);
      const char* error = candidate.cluster ? nullptr : gpu::zero(params.counters, count * kCounterBytes, stream);
      if (error == nullptr) {
        error = gpu::launch(candidate.kernel, launch_of(candidate, plan.blocks, count, plan.shared, stream), params);
      }
      if (error != nullptr) return error;
    }
    return "";
  }
  return "there is no kernel of this plan";
}

}  // namespace

Plan plan(Mode mode, bool backward, const Sizes& sizes, int device, const std::string& variant) {
  Plan none;
  gpu::Device facts;
  if (sizes.hidden < 1 || sizes.hidden > kLargestHidden) {
    none.reason = "hidden sizes are 1 to 1024";
  } else if (sizes.batch < 1 || sizes.steps < 1 || sizes.chains < 1) {
    none.reason = "there is nothing to compute";
  } else if (const char* error = gpu::device_facts(device, &facts)) {
    none.reason = error;
  } else {
    return backward ? choose<BackwardChain>(mode, sizes, device, variant, facts)
                    : choose<ForwardChain>(mode, sizes, device, variant, facts);
  }
  return none;
}

std::string forward(Mode mode, const Sizes& sizes, const ForwardChain* chains, const Plan& plan, void* workspace,
                    int* status, int64_t patience_ns, int device, void* stream) {
  return run(mode, sizes, chains, plan, workspace, status, patience_ns, device, stream);
}

std::string backward(Mode mode, const Sizes& sizes, const BackwardChain* chains, const Plan& plan, void* workspace,
                     int* status, int64_t patience_ns, int device, void* stream) {
  return run(mode, sizes, chains, plan, workspace, status, patience_ns, device, stream);
}

}  // namespace crrl::gru_cuda
