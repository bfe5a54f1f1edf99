#include "gru.hpp"

#ifdef __linux__
#include <unistd.h>
#endif

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "amx.hpp"
#include "gru_plan.hpp"
#include "isa.hpp"

namespace crrl {

#define CRRL_DECLARE(isa)                                                     \
  namespace isa {                                                             \
  bool forward(const GruForward&, const GruPlan&, int threads, void* packed); \
  GruCrew crew(const GruLayer&, const GruPlan&, int threads);                 \
  void* pack(const GruLayer&);                                                \
  void free(void*);                                                           \
  bool backward(const GruBackward&, const GruPlan&, int threads);             \
  }
#if defined(__x86_64__)
CRRL_DECLARE(amx)
CRRL_DECLARE(amx_float)
CRRL_DECLARE(avx512_bf16)
#endif
CRRL_EACH_ISA(CRRL_DECLARE)

// The kernels of an instruction set.
struct GruKernels {
  const char* name;
  bool bf16;
  bool available;
  int64_t least_rows, least_frames;  // from these on it is faster than the next; forced by name it serves any
  GruForwardKernel forward;
  GruBackwardKernel backward;
  GruPackKernel pack;
  GruFreeKernel free;
  GruCrewKernel crew;

  bool pays(const GruPlan& plan, int64_t rows) const { return rows >= least_rows && plan.frames >= least_frames; }
};

namespace {

// The fastest first.
const std::vector<GruKernels>& all_kernels() {
#if defined(__x86_64__)
  static const bool has_avx512_bf16 = has_avx512() && __builtin_cpu_supports("avx512bf16");
#ifdef CRRL_TILE_STAND_IN
  static const bool has_tiles = true;
#else
  static const bool has_tiles = has_amx_bf16() && has_avx512_bf16;
#endif
#endif
  static const std::vector<GruKernels> kernels = {
#if defined(__x86_64__)
      {"amx", true, has_tiles, 0, 17, amx::forward, amx::backward, amx::pack, amx::free, amx::crew},
      {"avx512_bf16", true, has_avx512_bf16, 0, 0, avx512_bf16::forward, avx512_bf16::backward, avx512_bf16::pack,
       avx512_bf16::free, avx512_bf16::crew},
      {"amx", false, has_tiles, kTileRows, kTileFrames, amx_float::forward, amx_float::backward, amx_float::pack,
       amx_float::free, amx_float::crew},
      {"avx512", false, has_avx512(), 0, 0, avx512::forward, avx512::backward, avx512::pack, avx512::free,
       avx512::crew},
      {"avx2", false, has_avx2(), 0, 0, avx2::forward, avx2::backward, avx2::pack, avx2::free, avx2::crew},
#elif defined(__aarch64__)
      {"neon", false, true, 0, 0, neon::forward, neon::backward, neon::pack, neon::free, neon::crew},
#endif
      {"plain", false, true, 0, 0, plain::forward, plain::backward, plain::pack, plain::free, plain::crew},
  };
  return kernels;
}

// The kernels named `isa`; null: the fastest.
const GruKernels& choose(bool bf16, const char* isa) {
  for (const GruKernels& kernels : all_kernels()) {
    if (kernels.bf16 != bf16 || (isa != nullptr && kernels.name != std::string(isa))) continue;
    if (kernels.available) return kernels;
    if (isa != nullptr) throw std::invalid_argument("this processor has no " + std::string(isa));
  }
  const std::string type = bf16 ? "bfloat16" : "float32";
  throw std::invalid_argument("no instruction set " + (isa == nullptr ? "" : "named " + std::string(isa) + " ") +
                              "for " + type);
}

// Runs the kernels named `isa` (null: the fastest for the sizes) and, if these cannot tell the results, the next ones.
template <typename Params, typename Run>
void run(const Params& params, const GruPlan& plan, bool bf16, const char* isa, const Run& run_kernels) {
  choose(bf16, isa);
  for (const GruKernels& kernels : all_kernels()) {
    if (kernels.bf16 != bf16 || !kernels.available) continue;
    if (isa == nullptr ? !kernels.pays(plan, params.layer.batch) : kernels.name != std::string(isa)) continue;
    if (run_kernels(kernels)) return;
    isa = nullptr;
  }
}

// Owns the arrays of a GruPlan.
class Planner {
 public:
  explicit Planner(const GruLayer& layer)
      : lengths_(layer.batch, layer.steps), starts_(layer.batch), order_(layer.batch) {
    if (layer.lengths != nullptr) lengths_.assign(layer.lengths, layer.lengths + layer.batch);
    for (int64_t b = 0; b < layer.batch; ++b) {
      if (lengths_[b] < 1 || lengths_[b] > layer.steps) {
        throw std::invalid_argument("lengths must be in 1.." + std::to_string(layer.steps) + ", not " +
                                    std::to_string(lengths_[b]));
      }
      starts_[b] = static_cast<int64_t>(row_of_.size());
      for (int64_t t = 0; t < lengths_[b]; ++t) {
        row_of_.push_back(b);
        time_of_.push_back(t);
      }
    }
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(), [this](int64_t a, int64_t b) { return lengths_[a] > lengths_[b]; });
  }

  GruPlan plan() const {
    return {order_.data(),  lengths_.data(), starts_.data(),
            row_of_.data(), time_of_.data(), static_cast<int64_t>(row_of_.size())};
  }

 private:
  std::vector<int64_t> lengths_, starts_, order_, row_of_, time_of_;
};

void check(const GruLayer& layer, int threads) {
  if (layer.batch < 1 || layer.steps < 1 || layer.input < 1 || layer.hidden < 1 || layer.directions < 1 ||
      layer.directions > 2 || threads < 1) {
    throw std::invalid_argument("a size of the GRU layer is out of range");
  }
}

}  // namespace

int64_t gru_reserve_size(int64_t batch, int64_t steps, int64_t hidden, int64_t directions) {
  return directions * batch * steps * kReserved * ((hidden + kPad - 1) / kPad * kPad);
}

double cache_size() {
  static const double size = [] {
#ifdef _SC_LEVEL2_CACHE_SIZE
    const long second_level = sysconf(_SC_LEVEL2_CACHE_SIZE);  // 0 or -1 if it is unknown
    if (second_level > 0) return 0.75 * static_cast<double>(second_level);
#endif
    return 1e6;
  }();
  return size;
}

const char* gru_isa(bool bf16) {
  for (const GruKernels& kernels : all_kernels()) {
    if (kernels.bf16 == bf16 && kernels.available) return kernels.name;
  }
  return nullptr;
}

void gru_forward(const GruForward& params, bool bf16, int threads, const char* isa) {
  check(params.layer, threads);
  const Planner planner(params.layer);
  const GruPlan plan = planner.plan();
  run(params, plan, bf16, isa,
      [&](const GruKernels& kernels) { return kernels.forward(params, plan, threads, nullptr); });
}

GruCrew gru_crew(const GruLayer& layer, bool bf16, int threads, const char* isa) {
  check(layer, threads);
  const Planner planner(layer);
  const GruPlan plan = planner.plan();
  GruCrew crew{};
  run(GruForward{layer, {}, nullptr, nullptr}, plan, bf16, isa, [&](const GruKernels& kernels) {
    crew = kernels.crew(layer, plan, threads);
    return true;
  });
  return crew;
}

GruWeights::GruWeights(const GruLayer& layer, bool bf16, const char* isa)
    : input(layer.input),
      hidden(layer.hidden),
      directions(layer.directions),
      bf16(bf16),
      kernels_((check(layer, 1), choose(bf16, isa))),
      packed_(kernels_.pack(layer)) {}

GruWeights::~GruWeights() { kernels_.free(packed_); }

void GruWeights::forward(const GruForward& params, int threads) const {
  check(params.layer, threads);
  const Planner planner(params.layer);
  kernels_.forward(params, planner.plan(), threads, packed_);
}

void gru_backward(const GruBackward& params, bool bf16, int threads, const char* isa) {
  check(params.layer, threads);
  const Planner planner(params.layer);
  const GruPlan plan = planner.plan();
  run(params, plan, bf16, isa, [&](const GruKernels& kernels) { return kernels.backward(params, plan, threads); });
}

}  // namespace crrl
