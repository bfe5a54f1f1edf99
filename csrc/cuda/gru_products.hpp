// The product of a block's slice of W with the vectors of all rows, by operand type.
//
// A vector is one row's h (or its gate gradients), K numbers of the operand's type. It is read in chunks of 64 bytes; a
// quarter of a warp's lanes, or all of them for float32, read 16 bytes each. Matrix instructions may sum over k in any
// order, so a lane's 16 bytes serve as its b-fragments in the next two instructions. Weights are kept as the matching
// fragments: four words for each lane and each of the two "steps" of a chunk.
#pragma once

#include "primitives.hpp"

namespace crrl::gru_cuda {

using gpu::Words;

constexpr int kWarp = 32;
constexpr int kRowTile = 8;    // rows of an instruction: its n
constexpr int kUnitTile = 16;  // units of an instruction: its m
constexpr int kChunkBytes = 64;
constexpr int kSteps = 2;  // instructions of a chunk

using Fragment = Words;

// Operands that matrix instructions take. With lane = 4 g + q, an a-fragment holds rows g and g + 8, a b-fragment
// column g; c-fragments hold rows g and g + 8 of columns 2q and 2q + 1.
template <class Type>
struct Matrix {
  using Stored = typename Type::Stored;
  static constexpr int kChunk = kChunkBytes / static_cast<int>(sizeof(Stored));
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

  // Sums over the chunks of a warp, for all rows, into partial[m-tile][row][unit].
  template <int kTiles, int kRowTiles, class Weights, class Vectors, class Store>
  CRRL_DEVICE static void product(int lane, const Weights& weights, const Vectors& vectors, const Store& store) {
    const int g = lane / 4, q = lane % 4;
    float sums[kRowTiles][kTiles][4] = {};
    weights.for_each_chunk([&](int chunk, const auto& fragment) {
      CRRL_UNROLL
      for (int rows = 0; rows < kRowTiles; ++rows) {
        const Words b = vectors.read(rows * kRowTile + g, chunk * kChunkBytes + q * 16);
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
      for (int tile = 0; tile < kTiles; ++tile) {
        CRRL_UNROLL
        for (int i = 0; i < 4; ++i) {
          store(tile, rows * kRowTile + 2 * q + i % 2, g + i / 2 * 8, sums[rows][tile][i]);
        }
      }
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
  static constexpr int kChunk = kChunkBytes / static_cast<int>(sizeof(Stored));
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

  template <int kTiles, int kRowTiles, class Weights, class Vectors, class Store>
  CRRL_DEVICE static void product(int lane, const Weights& weights, const Vectors& vectors, const Store& store) {
    for (int rows = 0; rows < kRowTiles * kRowTile; rows += kRowTile) tile<kTiles>(lane, rows, weights, vectors, store);
  }

 private:
  template <int kTiles, class Weights, class Vectors, class Store>
  CRRL_DEVICE static void tile(int lane, int rows, const Weights& weights, const Vectors& vectors, const Store& store) {
    const int half = lane / kUnitTile;
    float sums[kTiles][kRowTile] = {};
    weights.for_each_chunk([&](int chunk, const auto& fragment) {
      CRRL_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        CRRL_UNROLL
        for (int row = 0; row < kRowTile; ++row) {
          const Words b = vectors.read(rows + row, chunk * kChunkBytes + (2 * step + half) * 16);
          CRRL_UNROLL
          for (int tile = 0; tile < kTiles; ++tile) {
            const Fragment a = fragment(tile, step);
            CRRL_UNROLL
            for (int i = 0; i < 4; ++i) {
              sums[tile][row] += gpu::bits_float(a.word[i]) * gpu::bits_float(b.word[i]);
            }
          }
        }
      }
    });
    CRRL_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      CRRL_UNROLL
      for (int row = 0; row < kRowTile; ++row) {
        const float sum = sums[tile][row] + gpu::shuffle_xor(sums[tile][row], kUnitTile);
        if (row / 4 == half) store(tile, rows + row, lane % kUnitTile, sum);
      }
    }
  }
};

// The fragments of one warp: its chunks are first, first + stride, ...; registers keep the first kKept, shared memory
// the others.
template <class Operand, int kTiles, int kKept>
class Weights {
 public:
  // get(tile, m, k): element of W at unit m of the tile, k of all. `spilled`: of this warp, spilled_bytes() long.
  template <class Get>
  CRRL_DEVICE void load(int lane, int first, int stride, int chunks, unsigned char* spilled, const Get& get) {
    lane_ = lane;
    first_ = first;
    stride_ = stride;
    chunks_ = chunks;
    spilled_ = reinterpret_cast<Words*>(spilled);
    CRRL_UNROLL
    for (int i = 0; i < kKept; ++i) {
      const int chunk = first + i * stride;
      if (chunk < chunks) each(chunk, get, [&](int tile, int step, const Fragment& f) { kept_[i][tile][step] = f; });
    }
    for (int chunk = first + kKept * stride; chunk < chunks; chunk += stride) {
      each(chunk, get, [&](int tile, int step, const Fragment& f) { *place(chunk, tile, step) = f; });
    }
  }

  // visit(chunk, fragment), where fragment(tile, step) is the lane's.
  template <class Visit>
  CRRL_DEVICE void for_each_chunk(const Visit& visit) const {
    CRRL_UNROLL
    for (int i = 0; i < kKept; ++i) {
      const int chunk = first_ + i * stride_;
      if (chunk < chunks_) visit(chunk, [&](int tile, int step) { return kept_[i][tile][step]; });
    }
    for (int chunk = first_ + kKept * stride_; chunk < chunks_; chunk += stride_) {
      visit(chunk, [&](int tile, int step) { return *place(chunk, tile, step); });
    }
  }

 private:
  template <class Get, class Put>
  CRRL_DEVICE void each(int chunk, const Get& get, const Put& put) {
    CRRL_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      CRRL_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        put(tile, step,
            Operand::fragment(lane_, step, [&](int m, int k) { return get(tile, m, chunk * Operand::kChunk + k); }));
      }
    }
  }

  CRRL_DEVICE Words* place(int chunk, int tile, int step) const {
    const int index = (chunk - first_) / stride_ - kKept;
    return spilled_ + ((index * kTiles + tile) * kSteps + step) * kWarp + lane_;
  }

  int lane_, first_, stride_, chunks_;
  Words* spilled_;
  Fragment kept_[kKept][kTiles][kSteps];
};

// Bytes of shared memory for those of a warp's weights that are not in registers.
constexpr size_t spilled_bytes(int chunks, int stride, int tiles, int kept) {
  const int most = (chunks + stride - 1) / stride;
  return most <= kept ? 0 : static_cast<size_t>(most - kept) * tiles * kSteps * kWarp * sizeof(Words);
}

}  // namespace crrl::gru_cuda
