// The persistent kernels: a team of blocks takes a tile of rows of one chain through all its frames, forwards or
// backwards, and each row and unit is finished in the thread that owns it.
//
// Forwards, a frame needs h of all units: each block gathers it and multiplies it by its rows of W. Warp w has unit
// tile w % unit tiles, and every kSplits-th chunk of h from w / unit tiles on; the sums of the warps meet in shared
// memory, and are always added in their order.
//
// Backwards, a frame's gate gradients stay in their block, which multiplies them by its rows of W, for all units: that
// is its part of the gradient of h before the frame, which is scattered to the blocks that own the units and added up
// there in the order of the blocks. Warp w has the units of blocks w, w + 8, ...
#pragma once

#include "gru_exchange.hpp"
#include "gru_params.hpp"

namespace crrl::gru_cuda {

// What a kernel is compiled for. Operand: of the products. Element: of the tensors. Exchange: between its blocks.
template <class Operand_, class Element_, class Exchange_, int kUnits_, int kRows_>
struct Kind {
  using Operand = Operand_;
  using Element = Element_;
  using Exchange = Exchange_;
  static constexpr int kUnits = kUnits_, kRows = kRows_;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kUnitTiles = kUnits / kUnitTile, kSplits = kWarps / kUnitTiles;
  // Rows and units of a thread; where they are fewer than the threads, the last threads have none.
  static constexpr int kCells = kUnits * kRows > kThreads ? kUnits * kRows / kThreads : 1;
};

// Of a warp's weights, the chunks that stay in registers: 96 registers of a thread, fewer if many rows need registers.
template <class K, int kTiles>
constexpr int kept_chunks() {
  return K::kRows < 32 ? 12 / kTiles : K::Operand::kept_beside_many_rows(kTiles);
}

// A block's place in the launch.
template <class K, class Chain>
class Team {
 public:
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
        first_row((params.first_team + slot(params)) / params.sizes.chains * K::kRows) {}

  // The thread's cells: one unit, every 256 / units-th row.
  CRRL_DEVICE int unit() const { return gpu::thread_index() % K::kUnits; }
  CRRL_DEVICE int row(int cell) const { return gpu::thread_index() / K::kUnits + cell * (kThreads / K::kUnits); }
  CRRL_DEVICE int hidden_unit() const { return member.rank * K::kUnits + unit(); }
  CRRL_DEVICE int batch_row(int cell) const { return first_row + row(cell); }
  CRRL_DEVICE bool in_tile(int cell) const { return K::kUnits * K::kRows >= kThreads || row(cell) < K::kRows; }
  CRRL_DEVICE bool exists(int cell) const { return in_tile(cell) && batch_row(cell) < batch && hidden_unit() < hidden; }

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

 private:
  CRRL_DEVICE static int slot(const Params<Chain>& params) { return gpu::block_index() / params.blocks; }
};

CRRL_DEVICE int lane_index() { return gpu::thread_index() % kWarp; }
CRRL_DEVICE int warp_index() { return gpu::thread_index() / kWarp; }

// W h of a block's units: three gates' tiles of the h of all units.
template <class K>
class GatheredProduct {
  using Operand = typename K::Operand;
  using Exchange = typename K::Exchange::template AllGather<typename Operand::Stored, K::kUnits, K::kRows>;
  static constexpr int kTiles = 3, kKept = kept_chunks<K, kTiles>();
  static constexpr int kStride = K::kUnits + 4;  // so that the lanes of a matrix instruction write to all banks
  static constexpr size_t kSums = sizeof(float) * K::kSplits * kTiles * K::kRows * kStride;

 public:
  // Bytes of shared memory: weights that are not in registers, the sums of the warps, the exchange.
  static constexpr size_t shared_bytes(int padded) {
    return K::kWarps * weight_bytes(padded) + kSums + Exchange::shared_bytes(padded);
  }
  static constexpr size_t memory_bytes(int padded) { return Exchange::memory_bytes(padded); }

  CRRL_DEVICE explicit GatheredProduct(const Member& member)
      : member_(member),
        sums_(reinterpret_cast<float*>(gpu::shared_memory() + K::kWarps * weight_bytes(member.padded))),
        exchange_(member, reinterpret_cast<unsigned char*>(sums_) + kSums) {}

  // get(gate, unit, k): element of W, for units and k below `hidden`.
  template <class Get>
  CRRL_DEVICE void load(int hidden, const Get& get) {
    const int first = member_.rank * K::kUnits + unit_tile() * kUnitTile;
    unsigned char* mine = gpu::shared_memory() + warp_index() * weight_bytes(member_.padded);
    weights_.load(lane_index(), count(), mine, [&](int i, int gate, int m, int k) {
      const int unit = first + m, source = chunk(i) * Operand::kChunk + k;
      return unit < hidden && source < hidden ? get(gate, unit, source) : 0.0f;
    });
  }

  CRRL_DEVICE void put(int row, int unit, float h) { exchange_.put(row, unit, Operand::stored(h)); }
  CRRL_DEVICE void publish() { exchange_.publish(); }
  CRRL_DEVICE void finish() { exchange_.finish(); }

  // W times what was published; called by all threads. False: the wait timed out.
  CRRL_DEVICE bool multiply() {
    const bool came = exchange_.await();
    const int lane = lane_index(), first = unit_tile() * kUnitTile;
    Operand::template product<kTiles, K::kRows>(
        lane, weights_, 0, count(), [&](int row, int i, int piece) { return exchange_.read(row, chunk(i), piece); },
        [&](int gate, int rows, const float (&sums)[4]) {
          CRRL_UNROLL
          for (int i = 0; i < 4; ++i) {
            const int row = rows + Operand::row(lane, i);
            if (row < K::kRows) at(split(), gate, row, first + Operand::unit(lane, i)) = sums[i];
          }
        });
    gpu::sync_block();
    return came;
  }

  CRRL_DEVICE float sum(int gate, int row, int unit) const {
    float total = at(0, gate, row, unit);
    CRRL_UNROLL
    for (int split = 1; split < K::kSplits; ++split) total += at(split, gate, row, unit);
    return total;
  }

 private:
  static constexpr int chunks(int padded) { return padded / Operand::kChunk; }
  static constexpr size_t weight_bytes(int padded) {
    return spilled_bytes((chunks(padded) + K::kSplits - 1) / K::kSplits, kTiles, kKept);
  }

  CRRL_DEVICE static int unit_tile() { return warp_index() % K::kUnitTiles; }
  CRRL_DEVICE static int split() { return warp_index() / K::kUnitTiles; }
  CRRL_DEVICE static int chunk(int i) { return split() + i * K::kSplits; }
  CRRL_DEVICE int count() const { return (chunks(member_.padded) - split() + K::kSplits - 1) / K::kSplits; }
  CRRL_DEVICE float& at(int split, int gate, int row, int unit) const {
    return sums_[((split * kTiles + gate) * K::kRows + row) * kStride + unit];
  }

  const Member member_;
  float* sums_;
  Exchange exchange_;
  Weights<Operand, kTiles, kKept> weights_;
};

// The sums over all blocks of W^T times the gate gradients of their units.
template <class K>
class ScatteredProduct {
  using Operand = typename K::Operand;
  using Stored = typename Operand::Stored;
  using Exchange = typename K::Exchange::template ReduceScatter<float, K::kUnits, K::kRows>;
  static constexpr int kTiles = K::kUnitTiles;
  static constexpr int kChunks = (3 * K::kUnits + Operand::kChunk - 1) / Operand::kChunk;  // of a row's gradients
  static constexpr int kKept = kept_chunks<K, kTiles>() < kChunks ? kept_chunks<K, kTiles>() : kChunks;
  using Of = Vectors<Stored, K::kRows>;
  static constexpr int kVectors = Of::bytes(kChunks * Operand::kChunk);
  static constexpr int kMessages = K::kRows < kRowTile ? kWarp * K::kRows / kRowTile : kWarp;  // of a tile

 public:
  // Bytes of shared memory: weights that are not in registers, the block's gradients, the exchange.
  static constexpr size_t shared_bytes(int padded) {
    return K::kWarps * weight_bytes(padded / K::kUnits) + 2 * kVectors + Exchange::shared_bytes(padded);
  }
  static constexpr size_t memory_bytes(int padded) { return Exchange::memory_bytes(padded); }

  CRRL_DEVICE explicit ScatteredProduct(const Member& member)
      : member_(member),
        vectors_(gpu::shared_memory() + K::kWarps * weight_bytes(member.blocks)),
        exchange_(member, vectors_ + 2 * kVectors) {
    if constexpr (kChunks * Operand::kChunk > 3 * K::kUnits) {  // the last chunk ends in zeros
      for (int i = gpu::thread_index(); i < 2 * kVectors / 16; i += kThreads) {
        reinterpret_cast<Words*>(vectors_)[i] = Words{};
      }
      gpu::sync_block();
    }
  }

  // get(unit, gate, k): the weight from unit k's gate to a unit, both below `hidden`.
  template <class Get>
  CRRL_DEVICE void load(int hidden, const Get& get) {
    unsigned char* mine = gpu::shared_memory() + warp_index() * weight_bytes(member_.blocks);
    const int count = owners(member_.blocks, warp_index()) * kChunks;
    weights_.load(lane_index(), count, mine, [&](int i, int tile, int m, int k) {
      const int owner = warp_index() + i / kChunks * K::kWarps, unit = owner * K::kUnits + tile * kUnitTile + m;
      const int place = i % kChunks * Operand::kChunk + k, gate = place / K::kUnits;
      const int source = member_.rank * K::kUnits + place % K::kUnits;
      return gate < 3 && unit < hidden && source < hidden ? get(unit, gate, source) : 0.0f;
    });
  }

  CRRL_DEVICE void put(int gate, int row, int unit, float gradient) {
    *reinterpret_cast<Stored*>(vectors() + Of::place(row, gate * K::kUnits + unit)) = Operand::stored(gradient);
  }

  // Multiplies what was put, and sends every block its part; called by all threads.
  CRRL_DEVICE void publish() {
    gpu::sync_block();
    const int lane = lane_index();
    for (int owner = warp_index(), begin = 0; owner < member_.blocks; owner += K::kWarps, begin += kChunks) {
      Operand::template product<kTiles, K::kRows>(
          lane, weights_, begin, begin + kChunks,
          [&](int row, int i, int piece) {
            return *reinterpret_cast<const Words*>(vectors() + Of::place(row, i - begin, piece));
          },
          [&](int tile, int rows, const float (&sums)[4]) {
            if (Operand::row(lane, 0) >= K::kRows) return;
            const int message = (rows / kRowTile * kTiles + tile) * kMessages + Operand::message(lane);
            exchange_.send(owner, message, turned(sums, Operand::turned(lane, tile)));
          });
    }
    exchange_.publish();
  }

  CRRL_DEVICE bool await() { return exchange_.await(); }
  CRRL_DEVICE void finish() { exchange_.finish(); }

  CRRL_DEVICE float sum(int row, int unit) const {
    const int tile = unit / kUnitTile, of_tile = row % kRowTile, of_unit = unit % kUnitTile;
    const int lane = Operand::lane_of(of_tile, of_unit);
    const int message = (row / kRowTile * kTiles + tile) * kMessages + Operand::message(lane);
    return exchange_.sum(message * 4 + (Operand::index_of(of_tile, of_unit) ^ Operand::turned(lane, tile)));
  }

 private:
  // Blocks whose units a warp has.
  CRRL_DEVICE static constexpr int owners(int blocks, int warp) { return (blocks - warp + K::kWarps - 1) / K::kWarps; }
  static constexpr size_t weight_bytes(int blocks) {
    return spilled_bytes((blocks + K::kWarps - 1) / K::kWarps * kChunks, kTiles, kKept);
  }

  // Two buffers alternate, as a thread may put before all warps have read.
  CRRL_DEVICE unsigned char* vectors() const { return vectors_ + static_cast<int>(exchange_.next_buffer()) * kVectors; }

  // word[i] = sums[i ^ bits].
  CRRL_DEVICE static Words turned(const float (&sums)[4], int bits) {
    const bool pairs = bits & 1, halves = bits & 2;
    const float a[4] = {pairs ? sums[1] : sums[0], pairs ? sums[0] : sums[1], pairs ? sums[3] : sums[2],
                        pairs ? sums[2] : sums[3]};
    return {{gpu::float_bits(halves ? a[2] : a[0]), gpu::float_bits(halves ? a[3] : a[1]),
             gpu::float_bits(halves ? a[0] : a[2]), gpu::float_bits(halves ? a[1] : a[3])}};
  }

  const Member member_;
  unsigned char* vectors_;
  Exchange exchange_;
  Weights<Operand, kTiles, kKept> weights_;
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
  const Team<K, ForwardChain> team(params);
  GatheredProduct<K> product(team.member);
  const ForwardChain& chain = team.chain;
  const int hidden = team.hidden, unit = team.hidden_unit();
  product.load(hidden, [&](int gate, int of, int k) {
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
    if (team.in_tile(cell)) product.put(team.row(cell), team.unit(), h[cell]);
  }
  const int longest = team.longest();
  if (longest > 0) product.publish();  // without frames, no block waits for it

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
    const bool came = product.multiply();
    float kept[K::kCells][5];  // r, z, n, hn, h before: stored only after h is published, for which others wait
    CRRL_UNROLL
    for (int cell = 0; cell < K::kCells; ++cell) {
      if (!team.in_tile(cell)) continue;
      const int row = team.row(cell);
      const float r = sigmoid(gates[cell][0] + (product.sum(0, row, team.unit()) + bias[0]));
      const float z = sigmoid(gates[cell][1] + (product.sum(1, row, team.unit()) + bias[1]));
      const float hn = product.sum(2, row, team.unit()) + bias[2];
      const float n = gpu::hyperbolic_tangent(gates[cell][2] + r * hn);
      const float all[5] = {r, z, n, hn, h[cell]};
      CRRL_UNROLL
      for (int i = 0; i < 5; ++i) kept[cell][i] = all[i];
      if (step < length[cell]) h[cell] = came ? (h[cell] - n) * z + n : gpu::bits_float(0x7fc00000u);
      product.put(row, team.unit(), h[cell]);
    }
    if (step + 1 < longest) product.publish();
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
  product.finish();
}

// Gradients of the gates of all frames, from the last to the first. Each thread keeps dh of its cells in float32.
template <class K>
CRRL_DEVICE void run_backward(const Params<BackwardChain>& params) {
  using Element = typename K::Element;
  const Team<K, BackwardChain> team(params);
  ScatteredProduct<K> product(team.member);
  const BackwardChain& chain = team.chain;
  const int hidden = team.hidden, unit = team.hidden_unit();
  product.load(hidden, [&](int of, int gate, int k) {
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
      const bool came = product.await();
      CRRL_UNROLL
      for (int cell = 0; cell < K::kCells; ++cell) {
        if (!team.in_tile(cell)) continue;
        dh[cell] += came ? product.sum(team.row(cell), team.unit()) : gpu::bits_float(0x7fc00000u);
      }
    }
    if (step < 0) break;
    float gradients[K::kCells][4];  // stored only after the parts are published, for which others wait
    CRRL_UNROLL
    for (int cell = 0; cell < K::kCells; ++cell) {
      if (!team.in_tile(cell)) continue;
      const bool valid = step < length[cell];
      const float r = saved[cell][0], z = saved[cell][1], n = saved[cell][2], hn = saved[cell][3];
      const float total = dh[cell] + saved[cell][5];
      const float dn = total * (1.0f - z) * (1.0f - n * n);
      const float dz = total * (saved[cell][4] - n) * z * (1.0f - z);
      const float dr = dn * hn * r * (1.0f - r);
      const float all[4] = {dr, dz, dn, dn * r};
      if (valid) dh[cell] = total * z;
      CRRL_UNROLL
      for (int i = 0; i < 4; ++i) gradients[cell][i] = valid ? all[i] : 0.0f;
      CRRL_UNROLL
      for (int gate = 0; gate < 3; ++gate) {
        product.put(gate, team.row(cell), team.unit(), gradients[cell][gate == 2 ? 3 : gate]);
      }
    }
    product.publish();
    CRRL_UNROLL
    for (int cell = 0; cell < K::kCells; ++cell) {
      if (!team.exists(cell)) continue;
      Element* to = at<Element>(chain.dgates, team.batch_row(cell), team.frame(step, length[cell])) + unit;
      CRRL_UNROLL
      for (int i = 0; i < 4; ++i) write(to + i * hidden, gradients[cell][i]);
    }
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
  product.finish();
}

template <class K>
CRRL_KERNEL(kThreads)
gru_forward(CRRL_PARAMS Params<ForwardChain> params) {
  if constexpr (gpu::kClusters || !K::Exchange::kCluster) run_forward<K>(params);
}

template <class K>
CRRL_KERNEL(kThreads)
gru_backward(CRRL_PARAMS Params<BackwardChain> params) {
  if constexpr (gpu::kClusters || !K::Exchange::kCluster) run_backward<K>(params);
}

}  // namespace crrl::gru_cuda
