// The persistent kernels: a team of blocks takes a tile of rows of one chain through all its frames, forwards or
// backwards. Both are the same loop: publish vectors, await those of the team, multiply them by the block's slice of W,
// add up the sums of the warps, and finish each row and unit in the thread that owns it.
//
// Warps share the product: warp w has unit tile w % unit tiles, and every kSplits-th chunk of the vectors from
// w / unit tiles on. Their sums meet in shared memory and are always added in the order of the warps.
#pragma once

#include "gru_exchange.hpp"
#include "gru_params.hpp"

namespace crrl::gru_cuda {

// What a kernel is compiled for. Operand: of the products. Element: of the tensors. Exchange: between its blocks.
template <class Operand_, class Element_, template <class, int, int, int> class Exchange_, int kUnits_, int kRowTiles_>
struct Kind {
  using Operand = Operand_;
  using Element = Element_;
  template <int kGates>
  using Exchange = Exchange_<typename Operand::Stored, kGates, kUnits_, kRowTiles_ * kRowTile>;
  static constexpr int kUnits = kUnits_, kRowTiles = kRowTiles_, kRows = kRowTiles_ * kRowTile;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kUnitTiles = kUnits / kUnitTile, kSplits = kWarps / kUnitTiles;
  static constexpr int kCells = kUnits * kRows / kThreads;  // rows and units of a thread
  static_assert(kCells * kThreads == kUnits * kRows, "every thread has its cells");
};

// Chunks of a warp's weights that stay in registers: 96 registers of a thread, fewer if many rows need registers.
template <class K, int kTiles>
constexpr int kept_chunks() {
  return K::kRowTiles < 4 ? 12 / kTiles : K::Operand::kept_beside_many_rows(kTiles);
}

// The partial sums of a block's warps: [split][tile][row][unit], padded so that the lanes of a matrix instruction write
// to all banks.
template <class K, int kTiles>
struct Parts {
  static constexpr int kStride = K::kUnits + 4;
  static constexpr size_t kBytes = sizeof(float) * K::kSplits * kTiles * K::kRows * kStride;
  float* data;

  CRRL_DEVICE float& at(int split, int tile, int row, int unit) const {
    return data[((split * kTiles + tile) * K::kRows + row) * kStride + unit];
  }

  CRRL_DEVICE float sum(int tile, int row, int unit) const {
    float total = at(0, tile, row, unit);
    CRRL_UNROLL
    for (int split = 1; split < K::kSplits; ++split) total += at(split, tile, row, unit);
    return total;
  }
};

// Bytes of shared memory: weights that are not in registers, partial sums, the exchange. kTiles tiles of
// `gates` · padded numbers.
template <class K, int kTiles, int kGates>
constexpr size_t shared_bytes(int padded) {
  const int chunks = kGates * padded / K::Operand::kChunk;
  return K::kWarps * spilled_bytes(chunks, K::kSplits, kTiles, kept_chunks<K, kTiles>()) + Parts<K, kTiles>::kBytes +
         K::template Exchange<kGates>::shared_bytes(padded);
}

// A block's place in the launch, its product and its exchange, which the forward and the backward pass share.
template <class K, int kTiles, int kGates, class Chain>
class Team {
 public:
  using Operand = typename K::Operand;
  using Element = typename K::Element;

  CRRL_DEVICE explicit Team(const Params<Chain>& params)
      : batch(params.sizes.batch),
        steps(params.sizes.steps),
        hidden(params.sizes.hidden),
        member{gpu::block_index() % params.blocks,
               params.blocks,
               params.padded,
               params.status,
               params.patience_ns,
               reinterpret_cast<unsigned*>(params.counters + slot(params) * kCounterBytes),
               params.memory + slot(params) * params.memory_stride},
        chain(params.chains[(params.first_team + slot(params)) % params.sizes.chains]),
        first_row((params.first_team + slot(params)) / params.sizes.chains * K::kRows),
        exchange(member, gpu::shared_memory() + spilled() + Parts<K, kTiles>::kBytes),
        parts_{reinterpret_cast<float*>(gpu::shared_memory() + spilled())} {}

  // get(tile, unit, gate, k): element of W, for units and k below H.
  template <class Get>
  CRRL_DEVICE void load(const Get& get) {
    const int first = member.rank * K::kUnits + unit_tile() * kUnitTile;
    unsigned char* mine = gpu::shared_memory() + warp() * (spilled() / K::kWarps);
    weights_.load(lane(), split(), K::kSplits, chunks(), mine, [&](int tile, int m, int k) {
      const int gate = k / member.padded, unit = first + m;
      const int source = k - gate * member.padded;
      return unit < hidden && source < hidden ? get(tile, unit, gate, source) : 0.0f;
    });
  }

  // W times what was published; called by all threads. False: the wait timed out.
  CRRL_DEVICE bool multiply() {
    const bool came = exchange.await();
    const int first = unit_tile() * kUnitTile, split = this->split();
    Operand::template product<kTiles, K::kRowTiles>(
        lane(), weights_, exchange,
        [&](int tile, int row, int unit, float sum) { parts_.at(split, tile, row, first + unit) = sum; });
    gpu::sync_block();
    return came;
  }

  CRRL_DEVICE float product(int tile, int cell) const { return parts_.sum(tile, row(cell), unit()); }

  // The thread's cells: one unit, every 256 / units-th row.
  CRRL_DEVICE int unit() const { return gpu::thread_index() % K::kUnits; }
  CRRL_DEVICE int row(int cell) const { return gpu::thread_index() / K::kUnits + cell * (kThreads / K::kUnits); }
  CRRL_DEVICE int hidden_unit() const { return member.rank * K::kUnits + unit(); }
  CRRL_DEVICE int batch_row(int cell) const { return first_row + row(cell); }
  CRRL_DEVICE bool exists(int cell) const { return batch_row(cell) < batch && hidden_unit() < hidden; }

  // Valid frames of a row of the batch; 0 past the last row.
  CRRL_DEVICE int length(int row) const {
    if (row >= batch) return 0;
    if (chain.lengths == nullptr) return steps;
    const int64_t length = chain.lengths[row];
    return length < 0 ? 0 : length > steps ? steps : static_cast<int>(length);
  }

  CRRL_DEVICE int longest() const {
    int most = 0;
    for (int row = 0; row < K::kRows; ++row) most = length(first_row + row) > most ? length(first_row + row) : most;
    return most;
  }

  // The frame of a row of this length in a step; a padded frame from its length on.
  CRRL_DEVICE int frame(int step, int length) const {
    return chain.reverse && step < length ? length - 1 - step : step;
  }

  const int batch, steps, hidden;
  const Member member;
  const Chain& chain;
  const int first_row;
  typename K::template Exchange<kGates> exchange;

 private:
  CRRL_DEVICE static int slot(const Params<Chain>& params) { return gpu::block_index() / params.blocks; }
  CRRL_DEVICE int lane() const { return gpu::thread_index() % kWarp; }
  CRRL_DEVICE int warp() const { return gpu::thread_index() / kWarp; }
  CRRL_DEVICE int unit_tile() const { return warp() % K::kUnitTiles; }
  CRRL_DEVICE int split() const { return warp() / K::kUnitTiles; }
  CRRL_DEVICE int chunks() const { return kGates * member.padded / Operand::kChunk; }
  CRRL_DEVICE size_t spilled() const {
    return K::kWarps * spilled_bytes(chunks(), K::kSplits, kTiles, kept_chunks<K, kTiles>());
  }

  Parts<K, kTiles> parts_;
  Weights<Operand, kTiles, kept_chunks<K, kTiles>()> weights_;
};

template <class Element>
CRRL_DEVICE Element* at(const Frames& frames, int row, int frame) {
  return static_cast<Element*>(frames.data) + row * frames.row + frame * frames.frame;
}

template <class Element>
CRRL_DEVICE float read(const void* tensor, int64_t index) {
  return gpu::to_float(static_cast<const Element*>(tensor)[index]);
}

template <class Element>
CRRL_DEVICE void write(Element* to, float value) {
  gpu::from_float(value, *to);
}

CRRL_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + gpu::exponential(-x)); }

// h of all frames. Each thread keeps h of its cells in float32; for the product, h is rounded to the operand's type.
template <class K>
CRRL_DEVICE void run_forward(const Params<ForwardChain>& params) {
  using Element = typename K::Element;
  using Operand = typename K::Operand;
  Team<K, 3, 1, ForwardChain> team(params);
  const ForwardChain& chain = team.chain;
  const int hidden = team.hidden, unit = team.hidden_unit();
  team.load([&](int gate, int of, int, int k) {
    return read<Element>(chain.w_hh, (static_cast<int64_t>(gate) * hidden + of) * hidden + k);
  });

  float bias[3], h[K::kCells];
  int length[K::kCells];
  CRRL_UNROLL
  for (int gate = 0; gate < 3; ++gate) {
    bias[gate] = chain.b_hh != nullptr && unit < hidden ? read<Element>(chain.b_hh, gate * hidden + unit) : 0.0f;
  }
  CRRL_UNROLL
  for (int cell = 0; cell < K::kCells; ++cell) {
    const int row = team.batch_row(cell);
    length[cell] = team.exists(cell) ? team.length(row) : 0;
    h[cell] = chain.h0 != nullptr && team.exists(cell)
                  ? read<Element>(chain.h0, static_cast<int64_t>(row) * hidden + unit)
                  : 0.0f;
    team.exchange.put(0, team.row(cell), team.unit(), Operand::stored(h[cell]));
  }
  const int longest = team.longest();
  if (longest > 0) team.exchange.publish();  // without frames, no block waits for it

  for (int step = 0; step < longest; ++step) {
    float gates[K::kCells][3];  // loaded before the wait
    CRRL_UNROLL
    for (int cell = 0; cell < K::kCells; ++cell) {
      const bool valid = step < length[cell];
      const Element* from =
          at<Element>(chain.gates, valid ? team.batch_row(cell) : 0, valid ? team.frame(step, length[cell]) : 0);
      CRRL_UNROLL
      for (int gate = 0; gate < 3; ++gate) {
        gates[cell][gate] = valid ? gpu::to_float(from[gate * hidden + unit]) : 0.0f;
      }
    }
    const bool came = team.multiply();
    float kept[K::kCells][5];  // r, z, n, hn, h before: stored only after h is published, for which others wait
    CRRL_UNROLL
    for (int cell = 0; cell < K::kCells; ++cell) {
      const float r = sigmoid(gates[cell][0] + (team.product(0, cell) + bias[0]));
      const float z = sigmoid(gates[cell][1] + (team.product(1, cell) + bias[1]));
      const float hn = team.product(2, cell) + bias[2];
      const float n = gpu::hyperbolic_tangent(gates[cell][2] + r * hn);
      const float all[5] = {r, z, n, hn, h[cell]};
      CRRL_UNROLL
      for (int i = 0; i < 5; ++i) kept[cell][i] = all[i];
      if (step < length[cell]) h[cell] = came ? (h[cell] - n) * z + n : gpu::bits_float(0x7fc00000u);
      team.exchange.put(0, team.row(cell), team.unit(), Operand::stored(h[cell]));
    }
    if (step + 1 < longest) team.exchange.publish();
    CRRL_UNROLL
    for (int cell = 0; cell < K::kCells; ++cell) {
      if (!team.exists(cell)) continue;
      const bool valid = step < length[cell];
      const int row = team.batch_row(cell), frame = team.frame(step, length[cell]);
      write(at<Element>(chain.y, row, frame) + unit, valid ? h[cell] : 0.0f);
      if (chain.reserve.data == nullptr) continue;
      Element* reserve = at<Element>(chain.reserve, row, frame) + unit;
      write(reserve + 4 * hidden, valid ? kept[cell][4] : 0.0f);
      if (!valid) continue;
      CRRL_UNROLL
      for (int i = 0; i < 4; ++i) write(reserve + i * hidden, kept[cell][i]);
    }
  }

  CRRL_UNROLL
  for (int cell = 0; cell < K::kCells; ++cell) {
    if (!team.exists(cell)) continue;
    const int row = team.batch_row(cell);
    write(static_cast<Element*>(chain.h_n) + static_cast<int64_t>(row) * hidden + unit, h[cell]);
    for (int frame = longest; frame < team.steps; ++frame) {
      write(at<Element>(chain.y, row, frame) + unit, 0.0f);
      if (chain.reserve.data != nullptr) write(at<Element>(chain.reserve, row, frame) + 4 * hidden + unit, 0.0f);
    }
  }
  team.exchange.finish();
}

// Gradients of the gates of all frames, from the last to the first. Each thread keeps dh of its cells in float32.
template <class K>
CRRL_DEVICE void run_backward(const Params<BackwardChain>& params) {
  using Element = typename K::Element;
  using Operand = typename K::Operand;
  Team<K, 1, 3, BackwardChain> team(params);
  const BackwardChain& chain = team.chain;
  const int hidden = team.hidden, unit = team.hidden_unit();
  team.load([&](int, int of, int gate, int k) {
    return read<Element>(chain.w_hh, (static_cast<int64_t>(gate) * hidden + k) * hidden + of);
  });

  float dh[K::kCells];
  int length[K::kCells];
  CRRL_UNROLL
  for (int cell = 0; cell < K::kCells; ++cell) {
    const int row = team.batch_row(cell);
    length[cell] = team.exists(cell) ? team.length(row) : 0;
    dh[cell] = chain.dh_n != nullptr && team.exists(cell)
                   ? read<Element>(chain.dh_n, static_cast<int64_t>(row) * hidden + unit)
                   : 0.0f;
  }

  const int longest = team.longest();
  for (int step = longest - 1; step >= -1; --step) {
    float saved[K::kCells][6];  // r, z, n, hn, h before, dy: loaded before the wait
    CRRL_UNROLL
    for (int cell = 0; cell < K::kCells; ++cell) {
      const bool valid = step >= 0 && step < length[cell];
      const int row = valid ? team.batch_row(cell) : 0, frame = valid ? team.frame(step, length[cell]) : 0;
      CRRL_UNROLL
      for (int i = 0; i < 5; ++i) {
        saved[cell][i] = valid ? gpu::to_float(at<Element>(chain.reserve, row, frame)[i * hidden + unit]) : 0.0f;
      }
      saved[cell][5] =
          valid && chain.dy.data != nullptr ? gpu::to_float(at<Element>(chain.dy, row, frame)[unit]) : 0.0f;
    }
    if (step < longest - 1) {
      const bool came = team.multiply();
      CRRL_UNROLL
      for (int cell = 0; cell < K::kCells; ++cell) {
        dh[cell] += came ? team.product(0, cell) : gpu::bits_float(0x7fc00000u);
      }
    }
    if (step < 0) break;
    CRRL_UNROLL
    for (int cell = 0; cell < K::kCells; ++cell) {
      const bool valid = step < length[cell];
      const float r = saved[cell][0], z = saved[cell][1], n = saved[cell][2], hn = saved[cell][3];
      const float total = dh[cell] + saved[cell][5];
      const float dn = total * (1.0f - z) * (1.0f - n * n);
      const float dz = total * (saved[cell][4] - n) * z * (1.0f - z);
      const float dr = dn * hn * r * (1.0f - r);
      const float gradients[4] = {dr, dz, dn, dn * r};
      if (valid) dh[cell] = total * z;
      CRRL_UNROLL
      for (int gate = 0; gate < 3; ++gate) {
        const float published = valid ? gradients[gate == 2 ? 3 : gate] : 0.0f;
        team.exchange.put(gate, team.row(cell), team.unit(), Operand::stored(published));
      }
      if (!team.exists(cell)) continue;
      Element* to = at<Element>(chain.dgates, team.batch_row(cell), team.frame(step, length[cell])) + unit;
      CRRL_UNROLL
      for (int i = 0; i < 4; ++i) write(to + i * hidden, valid ? gradients[i] : 0.0f);
    }
    team.exchange.publish();
  }

  CRRL_UNROLL
  for (int cell = 0; cell < K::kCells; ++cell) {
    if (!team.exists(cell)) continue;
    const int row = team.batch_row(cell);
    write(static_cast<Element*>(chain.dh0) + static_cast<int64_t>(row) * hidden + unit, dh[cell]);
    for (int frame = longest; frame < team.steps; ++frame) {
      Element* to = at<Element>(chain.dgates, row, frame) + unit;
      for (int i = 0; i < 4; ++i) write(to + i * hidden, 0.0f);
    }
  }
  team.exchange.finish();
}

template <class K>
CRRL_KERNEL(kThreads)
gru_forward(CRRL_PARAMS Params<ForwardChain> params) {
  if constexpr (gpu::kClusters || !K::template Exchange<1>::kCluster) run_forward<K>(params);
}

template <class K>
CRRL_KERNEL(kThreads)
gru_backward(CRRL_PARAMS Params<BackwardChain> params) {
  if constexpr (gpu::kClusters || !K::template Exchange<3>::kCluster) run_backward<K>(params);
}

}  // namespace crrl::gru_cuda
