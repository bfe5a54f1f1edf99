// The product of a block's slice of W with the vectors of all rows, by operand type.
//
// A vector is what the product sums over for one row: h of all units, or the gate gradients of the block's units, K
// numbers of the operand's type. It is read in chunks of 64 bytes; a quarter of a warp's lanes, or all of them for
// float32, read 16 bytes each. Matrix instructions may sum over k in any order, so a lane's 16 bytes serve as its
// b-fragments in the next two instructions. Weights are kept as the matching fragments: four words for each lane and
// each of the two "steps" of a chunk.
#pragma once

#include "primitives.hpp"

namespace crrl::gru_cuda {

using gpu::Words;

constexpr int kWarp = 32;
constexpr int kRowTile = 8;    // rows of an instruction: its n
constexpr int kUnitTile = 16;  // units of an instruction: its m
constexpr int kChunkBytes = 64;
constexpr int kSteps = 2;  // instructions of a chunk
template <class Stored>
constexpr int kNumbers = kChunkBytes / static_cast<int>(sizeof(Stored));  // of a chunk

constexpr int row_tiles(int rows) { return (rows + kRowTile - 1) / kRowTile; }

using Fragment = Words;

// Operands that matrix instructions take. With lane = 4 g + q, an a-fragment holds rows g and g + 8, a b-fragment
// column g; c-fragments hold rows g and g + 8 of columns 2q and 2q + 1.
template <class Type>
struct Matrix {
  using Stored = typename Type::Stored;
  static constexpr int kChunk = kNumbers<Stored>;
  static constexpr int kept_beside_many_rows(int tiles) { return 6 / tiles; }
  CRRL_DEVICE static Stored stored(float x) { return Type::stored(x); }

  // get(m, k): element of W at unit m of the tile, k of the chunk.
  template <class Get>
  CRRL_DEVICE static Fragment fragment(int lane, int step, const Get& get) {
    const int g = lane / 4, q = lane % 4;
    constexpr int kPerWord = 4 / static_cast<int>(sizeof(Stored));
    const int first = q * 4 * kPerWord + step * 2 * kPerWord;
    Fragment result;
    CRRL_UNROLL
    for (int word = 0; word < 4; ++word) {
      const int m = g + word % 2 * 8;
      result.word[word] = Type::pack([&](int i) { return get(m, first + word / 2 * kPerWord + i); });
    }
    return result;
  }

  // Where the i-th of a lane's four sums lies in a tile of rows and units.
  CRRL_DEVICE static int row(int lane, int i) { return 2 * (lane % 4) + i % 2; }
  CRRL_DEVICE static int unit(int lane, int i) { return lane / 4 + i / 2 * 8; }
  CRRL_DEVICE static int lane_of(int row, int unit) { return unit % 8 * 4 + row / 2; }
  CRRL_DEVICE static int index_of(int row, int unit) { return unit / 8 * 2 + row % 2; }

  // The place of a lane's sums among those of its tile, and which bits of their order are turned over: so that the
  // lanes of a row's units read from all banks.
  CRRL_DEVICE static int message(int lane) { return lane % 4 * 8 + lane / 4; }
  CRRL_DEVICE static int turned(int, int tile) { return tile % 2; }

  // The products of the weights begin .. end − 1: read(row, i, piece) gives 16 bytes of what the i-th multiplies, and
  // use(tile, first row, sums) takes a lane's four sums.
  template <int kTiles, int kRows, class Weights, class Read, class Use>
  CRRL_DEVICE static void product(int lane, const Weights& weights, int begin, int end, const Read& read,
                                  const Use& use) {
    constexpr int kRowTiles = row_tiles(kRows);
    const int g = lane / 4, q = lane % 4;
    float sums[kRowTiles][kTiles][4] = {};
    weights.for_each(begin, end, [&](int i, const auto& fragment) {
      CRRL_UNROLL
      for (int rows = 0; rows < kRowTiles; ++rows) {
        const Words b = read(rows * kRowTile + (kRows < kRowTile ? g % kRows : g), i, q);
        CRRL_UNROLL
        for (int step = 0; step < kSteps; ++step) {
          CRRL_UNROLL
          for (int tile = 0; tile < kTiles; ++tile) {
            const Fragment a = fragment(tile, step);
            Type::multiply(sums[rows][tile], a.word, b.word[2 * step], b.word[2 * step + 1]);
          }
        }
      }
    });
    CRRL_UNROLL
    for (int rows = 0; rows < kRowTiles; ++rows) {
      CRRL_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) use(tile, rows * kRowTile, sums[rows][tile]);
    }
  }
};

struct TF32 {
  using Stored = float;
  CRRL_DEVICE static Stored stored(float x) { return gpu::bits_float(gpu::to_tf32(x)); }
  template <class Get>
  CRRL_DEVICE static uint32_t pack(const Get& get) {
    return gpu::to_tf32(get(0));
  }
  CRRL_DEVICE static void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    gpu::mma_tf32(c, a, b0, b1);
  }
};

template <class Type>
CRRL_DEVICE Type narrowed(float x) {
  Type result;
  gpu::from_float(x, result);
  return result;
}

template <class Type>
struct Narrow {
  using Stored = Type;
  CRRL_DEVICE static Stored stored(float x) { return narrowed<Type>(x); }
  template <class Get>
  CRRL_DEVICE static uint32_t pack(const Get& get) {
    return narrowed<Type>(get(0)).bits | static_cast<uint32_t>(narrowed<Type>(get(1)).bits) << 16;
  }
};

struct FP16 : Narrow<gpu::Half> {
  CRRL_DEVICE static void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    gpu::mma_f16(c, a, b0, b1);
  }
};

struct BF16 : Narrow<gpu::BFloat16> {
  CRRL_DEVICE static void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    gpu::mma_bf16(c, a, b0, b1);
  }
};

// Exact float32 by fused multiply-adds. Lanes m and m + 16 share unit m of the tile and take every other 16 bytes of a
// chunk; all rows' vectors are read by broadcast. Tiles of rows go one after the other, as sums need many registers.
struct FP32 {
  using Stored = float;
  static constexpr int kChunk = kNumbers<Stored>;
  static constexpr int kept_beside_many_rows(int tiles) { return tiles == 1 ? 3 : 2; }
  CRRL_DEVICE static Stored stored(float x) { return x; }

  template <class Get>
  CRRL_DEVICE static Fragment fragment(int lane, int step, const Get& get) {
    Fragment result;
    CRRL_UNROLL
    for (int i = 0; i < 4; ++i) {
      result.word[i] = gpu::float_bits(get(lane % kUnitTile, 4 * (2 * step + lane / kUnitTile) + i));
    }
    return result;
  }

  // As those of Matrix. The halves of a warp share the rows of a tile.
  CRRL_DEVICE static int row(int lane, int i) { return lane / kUnitTile * 4 + i; }
  CRRL_DEVICE static int unit(int lane, int) { return lane % kUnitTile; }
  CRRL_DEVICE static int lane_of(int row, int unit) { return row / 4 * kUnitTile + unit; }
  CRRL_DEVICE static int index_of(int row, int) { return row % 4; }
  CRRL_DEVICE static int message(int lane) { return lane; }
  CRRL_DEVICE static int turned(int lane, int tile) { return tile % 2 * 2 + lane % kUnitTile / 8; }

  template <int kTiles, int kRows, class Weights, class Read, class Use>
  CRRL_DEVICE static void product(int lane, const Weights& weights, int begin, int end, const Read& read,
                                  const Use& use) {
    for (int rows = 0; rows < kRows; rows += kRowTile) {
      tile<kTiles, (kRows < kRowTile ? kRows : kRowTile)>(lane, rows, weights, begin, end, read, use);
    }
  }

 private:
  template <int kTiles, int kRows, class Weights, class Read, class Use>
  CRRL_DEVICE static void tile(int lane, int rows, const Weights& weights, int begin, int end, const Read& read,
                               const Use& use) {
    const int half = lane / kUnitTile;
    float sums[kTiles][kRows] = {};
    weights.for_each(begin, end, [&](int i, const auto& fragment) {
      CRRL_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        CRRL_UNROLL
        for (int row = 0; row < kRows; ++row) {
          const Words b = read(rows + row, i, 2 * step + half);
          CRRL_UNROLL
          for (int tile = 0; tile < kTiles; ++tile) {
            const Fragment a = fragment(tile, step);
            CRRL_UNROLL
            for (int word = 0; word < 4; ++word) {
              sums[tile][row] += gpu::bits_float(a.word[word]) * gpu::bits_float(b.word[word]);
            }
          }
        }
      }
    });
    CRRL_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      float own[4];
      CRRL_UNROLL
      for (int i = 0; i < 4; ++i) {  // each half adds the other's sums of its own four rows
        const float first = sums[tile][i], last = sums[tile][(i + 4) % kRows];
        own[i] = (half ? last : first) + gpu::shuffle_xor(half ? first : last, kUnitTile);
      }
      use(tile, rows, own);
    }
  }
};

// The fragments of one warp, in the order in which it multiplies them: registers keep the first kKept chunks, shared
// memory the others.
template <class Operand, int kTiles, int kKept>
class Weights {
 public:
  // get(i, tile, m, k): element of W at unit m of the tile, k of the i-th of `count` chunks. `spilled`: of this warp,
  // spilled_bytes() long.
  template <class Get>
  CRRL_DEVICE void load(int lane, int count, unsigned char* spilled, const Get& get) {
    lane_ = lane;
    spilled_ = reinterpret_cast<Words*>(spilled);
    CRRL_UNROLL
    for (int i = 0; i < kKept; ++i) {
      if (i < count) each(i, get, [&](int tile, int step, const Fragment& f) { kept_[i][tile][step] = f; });
    }
    for (int i = kKept; i < count; ++i) {
      each(i, get, [&](int tile, int step, const Fragment& f) { *place(i, tile, step) = f; });
    }
  }

  // visit(i, fragment) for begin .. end − 1, where fragment(tile, step) is the lane's; begin is 0, or past the kept.
  template <class Visit>
  CRRL_DEVICE void for_each(int begin, int end, const Visit& visit) const {
    if (begin == 0) {
      CRRL_UNROLL
      for (int i = 0; i < kKept; ++i) {
        if (i < end) visit(i, [&](int tile, int step) { return kept_[i][tile][step]; });
      }
    }
    CRRL_NO_UNROLL  // bound by the loads
        for (int i = begin < kKept ? kKept : begin; i < end; ++i) {
      visit(i, [&](int tile, int step) { return *place(i, tile, step); });
    }
  }

 private:
  template <class Get, class Put>
  CRRL_DEVICE void each(int i, const Get& get, const Put& put) {
    CRRL_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      CRRL_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        put(tile, step, Operand::fragment(lane_, step, [&](int m, int k) { return get(i, tile, m, k); }));
      }
    }
  }

  CRRL_DEVICE Words* place(int i, int tile, int step) const {
    return spilled_ + (((i - kKept) * kTiles + tile) * kSteps + step) * kWarp + lane_;
  }

  int lane_;
  Words* spilled_;
  Fragment kept_[kKept][kTiles][kSteps];
};

// Bytes of shared memory for those of a warp's weights that are not in registers.
constexpr size_t spilled_bytes(int count, int tiles, int kept) {
  return count <= kept ? 0 : static_cast<size_t>(count - kept) * tiles * kSteps * kWarp * sizeof(Words);
}

}  // namespace crrl::gru_cuda
