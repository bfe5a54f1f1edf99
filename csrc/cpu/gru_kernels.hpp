// The arithmetic of gru.hpp for one instruction set. A source file selects the set by its compiler target, sets
// CRRL_ISA (a namespace), CRRL_LANES (floats in a vector register) and CRRL_ROWS (rows in a register tile: three gates
// of each stay in registers), and includes this once.
//
// Nothing from the standard library's templates is used here: the linker keeps one copy of each, and it could be the
// one compiled for instructions that this processor lacks. All that is here stays within its own source file.
#include <cstdint>
#include <cstring>

#include "gru.hpp"

namespace crrl {
namespace CRRL_ISA {
namespace {

constexpr int64_t kLanes = CRRL_LANES;
constexpr int64_t kRows = CRRL_ROWS;
constexpr int64_t kWide = 2;  // vectors in a register tile of the backward product

typedef float Vec __attribute__((vector_size(CRRL_LANES * 4)));
typedef int32_t IntVec __attribute__((vector_size(CRRL_LANES * 4)));

inline Vec splat(float value) { return value - Vec{}; }

inline Vec load(const float* from) {
  Vec value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// The last vector of a row may be short: only `count` lanes belong to it.
inline Vec load(const float* from, int64_t count) {
  if (count == kLanes) return load(from);
  Vec value{};
  std::memcpy(&value, from, count * sizeof(float));
  return value;
}

inline void store(float* to, Vec value, int64_t count) {
  if (count == kLanes) {
    std::memcpy(to, &value, sizeof(value));
  } else {
    std::memcpy(to, &value, count * sizeof(float));
  }
}

inline Vec clamp(Vec x, float low, float high) {
  x = x < low ? splat(low) : x;
  return x > high ? splat(high) : x;
}

// e^x to about one unit in the last place: x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial in r, and 2^n by exponent.
inline Vec exp(Vec x) {
  x = clamp(x, -87.0f, 88.0f);
  const float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  const Vec shifted = x * 1.44269504f + to_integer;
  const Vec n = shifted - to_integer;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  IntVec bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  const IntVec exponent = bits << 23;  // the whole number's low bits, moved to the exponent
  IntVec result;
  std::memcpy(&result, &p, sizeof(result));
  result += exponent;
  Vec value;
  std::memcpy(&value, &result, sizeof(value));
  return value;
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

// Near 0, where 1 - 2 / (e^2x + 1) would cancel, an odd polynomial.
inline Vec tanh(Vec x) {
  const Vec s = x * x;
  Vec p = s * -5.70498872745e-3f + 2.06390887954e-2f;
  p = p * s - 5.37397155531e-2f;
  p = p * s + 1.33314422036e-1f;
  p = p * s - 3.33332819422e-1f;
  const Vec small = p * (s * x) + x;
  const Vec large = 1.0f - 2.0f / (1.0f + exp(2.0f * x));
  return s < 0.390625f ? small : large;
}

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

inline void copy(const float* from, int64_t count, float* to) { std::memcpy(to, from, count * sizeof(float)); }

// Zeroed floats.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) : data_(new float[size]()) {}
  Buffer(Buffer&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
  Buffer& operator=(Buffer&& other) noexcept {
    float* const data = data_;
    data_ = other.data_;
    other.data_ = data;
    return *this;
  }
  ~Buffer() { delete[] data_; }
  float* at(int64_t index) { return data_ + index; }

 private:
  float* data_ = nullptr;
};

inline int64_t blocks(int64_t size, int64_t block) { return (size + block - 1) / block; }

// W_hh [3H, H] as [unit block][column][gate][lane], zero past H: what one register tile reads runs through memory.
Buffer pack_forward(const float* w_hh, int64_t hidden) {
  const int64_t units = blocks(hidden, kLanes);
  Buffer packed(units * hidden * 3 * kLanes);
  for (int64_t unit = 0; unit < hidden; ++unit) {
    float* to = packed.at(0) + (unit / kLanes) * hidden * 3 * kLanes + unit % kLanes;
    for (int64_t gate = 0; gate < 3; ++gate) {
      const float* row = w_hh + (gate * hidden + unit) * hidden;
      for (int64_t k = 0; k < hidden; ++k) to[(k * 3 + gate) * kLanes] = row[k];
    }
  }
  return packed;
}

// W_hh [3H, H] as [column block][row][lanes of kWide vectors], zero past H.
Buffer pack_backward(const float* w_hh, int64_t hidden) {
  const int64_t width = kWide * kLanes;
  Buffer packed(blocks(hidden, width) * 3 * hidden * width);
  for (int64_t block = 0; block < blocks(hidden, width); ++block) {
    const int64_t first = block * width;
    const int64_t count = least(width, hidden - first);
    float* to = packed.at(0) + block * 3 * hidden * width;
    for (int64_t k = 0; k < 3 * hidden; ++k) copy(w_hh + k * hidden + first, count, to + k * width);
  }
  return packed;
}

// Rows first, first + stride, ... of one direction: what one thread computes on its own.
struct Chain {
  int64_t direction;
  int64_t first;
  int64_t stride;

  int64_t rows(int64_t active) const { return active > first ? blocks(active - first, stride) : 0; }
  int64_t row(int64_t i) const { return first + i * stride; }
};

// One step of a direction, for a tile of R rows and one block of units.
struct ForwardTile {
  const float* weights;  // packed, of this block
  const float* b_hh;
  const float* h;       // [rows, H] of the chain
  int64_t frame;        // packed index of the tile's first row
  int64_t next;         // from a row's packed index to the next one's
  int64_t base;         // packed index of the direction's first frame
  int64_t unit, count;  // the block's first unit and how many of its lanes are units
};

template <int64_t R>
void forward_tile(const GruForwardParams& p, const ForwardTile& tile) {
  const int64_t hidden = p.shape.hidden;
  Vec r_sum[R], z_sum[R], n_sum[R];
  for (int64_t i = 0; i < R; ++i) {
    r_sum[i] = load(tile.b_hh + tile.unit, tile.count);
    z_sum[i] = load(tile.b_hh + hidden + tile.unit, tile.count);
    n_sum[i] = load(tile.b_hh + 2 * hidden + tile.unit, tile.count);
  }
  const float* w = tile.weights;
  for (int64_t k = 0; k < hidden; ++k, w += 3 * kLanes) {
    const Vec w_r = load(w), w_z = load(w + kLanes), w_n = load(w + 2 * kLanes);
    for (int64_t i = 0; i < R; ++i) {
      const Vec h = splat(tile.h[i * hidden + k]);
      r_sum[i] += w_r * h;
      z_sum[i] += w_z * h;
      n_sum[i] += w_n * h;
    }
  }
  for (int64_t i = 0; i < R; ++i) {
    const int64_t at = tile.base + tile.frame + i * tile.next;
    const float* gates = p.gates + at * 3 * hidden + tile.unit;
    const Vec r = sigmoid(r_sum[i] + load(gates, tile.count));
    const Vec z = sigmoid(z_sum[i] + load(gates + hidden, tile.count));
    const Vec n = tanh(load(gates + 2 * hidden, tile.count) + r * n_sum[i]);
    const Vec h = load(tile.h + i * hidden + tile.unit, tile.count);
    store(p.y + at * hidden + tile.unit, (h - n) * z + n, tile.count);
    if (p.before != nullptr) {
      store(p.before + at * hidden + tile.unit, h, tile.count);
      store(p.r_z + at * 2 * hidden + tile.unit, r, tile.count);
      store(p.r_z + at * 2 * hidden + hidden + tile.unit, z, tile.count);
      store(p.n + at * hidden + tile.unit, n, tile.count);
      store(p.n_h + at * hidden + tile.unit, n_sum[i], tile.count);
    }
  }
}

template <int64_t R = kRows>
void forward_rows(const GruForwardParams& p, const ForwardTile& tile, int64_t rows) {
  if constexpr (R > 1) {
    if (rows < R) return forward_rows<R - 1>(p, tile, rows);
  }
  forward_tile<R>(p, tile);
}

void forward_chain(const GruForwardParams& p, const float* packed, const Chain& chain) {
  const GruShape& s = p.shape;
  const int64_t hidden = s.hidden;
  float* states = p.h + chain.direction * s.batch * hidden;
  Buffer h(chain.rows(s.batch) * hidden);
  for (int64_t i = 0; i < chain.rows(s.batch); ++i) copy(states + chain.row(i) * hidden, hidden, h.at(i * hidden));
  const int64_t base = chain.direction * s.frames;
  for (int64_t t = 0; t < s.steps; ++t) {
    const int64_t rows = chain.rows(s.active[t]);
    const int64_t first = s.starts[t] + chain.first;
    for (int64_t unit = 0; unit < hidden; unit += kLanes) {
      for (int64_t i = 0; i < rows; i += kRows) {
        const ForwardTile tile{packed + unit * hidden * 3,
                               p.b_hh + chain.direction * 3 * hidden,
                               h.at(i * hidden),
                               first + i * chain.stride,
                               chain.stride,
                               base,
                               unit,
                               least(kLanes, hidden - unit)};
        forward_rows(p, tile, least(kRows, rows - i));
      }
    }
    for (int64_t i = 0; i < rows; ++i) {
      copy(p.y + (base + first + i * chain.stride) * hidden, hidden, h.at(i * hidden));
    }
  }
  for (int64_t i = 0; i < chain.rows(s.batch); ++i) copy(h.at(i * hidden), hidden, states + chain.row(i) * hidden);
}

// The gate gradients of one frame; dh becomes what reaches the state before by the direct way, dh z.
void backward_gates(const GruBackwardParams& p, int64_t at, float* dh) {
  const int64_t hidden = p.shape.hidden;
  const float* r_z = p.r_z + at * 2 * hidden;
  float* dgates = p.dgates + at * 3 * hidden;
  float* drecurrent = p.drecurrent + at * 3 * hidden;
  for (int64_t unit = 0; unit < hidden; unit += kLanes) {
    const int64_t count = least(kLanes, hidden - unit);
    const Vec r = load(r_z + unit, count), z = load(r_z + hidden + unit, count);
    const Vec n = load(p.n + at * hidden + unit, count), n_h = load(p.n_h + at * hidden + unit, count);
    const Vec before = load(p.before + at * hidden + unit, count);
    const Vec d = load(dh + unit, count) + load(p.dy + at * hidden + unit, count);
    const Vec dn = d * (1.0f - z) * (1.0f - n * n);
    const Vec dr = dn * n_h * (r * (1.0f - r));
    const Vec dz = d * (before - n) * (z * (1.0f - z));
    store(dgates + unit, dr, count);
    store(dgates + hidden + unit, dz, count);
    store(dgates + 2 * hidden + unit, dn, count);
    store(drecurrent + unit, dr, count);
    store(drecurrent + hidden + unit, dz, count);
    store(drecurrent + 2 * hidden + unit, dn * r, count);
    store(dh + unit, d * z, count);
  }
}

// dh += drecurrent W_hh for a tile of R rows and one block of columns.
template <int64_t R>
void backward_tile(const float* weights, const float* drecurrent, int64_t next, float* dh, int64_t hidden,
                   int64_t column) {
  Vec sums[R][kWide] = {};
  for (int64_t k = 0; k < 3 * hidden; ++k, weights += kWide * kLanes) {
    Vec w[kWide];
    for (int64_t v = 0; v < kWide; ++v) w[v] = load(weights + v * kLanes);
    for (int64_t i = 0; i < R; ++i) {
      const Vec d = splat(drecurrent[i * next + k]);
      for (int64_t v = 0; v < kWide; ++v) sums[i][v] += w[v] * d;
    }
  }
  for (int64_t i = 0; i < R; ++i) {
    for (int64_t v = 0; v < kWide; ++v) {
      const int64_t first = column + v * kLanes;
      if (first >= hidden) break;
      const int64_t count = least(kLanes, hidden - first);
      float* to = dh + i * hidden + first;
      store(to, load(to, count) + sums[i][v], count);
    }
  }
}

template <int64_t R = kRows>
void backward_rows(const float* weights, const float* drecurrent, int64_t next, float* dh, int64_t hidden,
                   int64_t column, int64_t rows) {
  if constexpr (R > 1) {
    if (rows < R) return backward_rows<R - 1>(weights, drecurrent, next, dh, hidden, column, rows);
  }
  backward_tile<R>(weights, drecurrent, next, dh, hidden, column);
}

void backward_chain(const GruBackwardParams& p, const float* packed, const Chain& chain) {
  const GruShape& s = p.shape;
  const int64_t hidden = s.hidden;
  float* states = p.dh + chain.direction * s.batch * hidden;
  Buffer dh(chain.rows(s.batch) * hidden);
  for (int64_t i = 0; i < chain.rows(s.batch); ++i) copy(states + chain.row(i) * hidden, hidden, dh.at(i * hidden));
  for (int64_t t = s.steps - 1; t >= 0; --t) {
    const int64_t rows = chain.rows(s.active[t]);
    const int64_t first = chain.direction * s.frames + s.starts[t] + chain.first;
    for (int64_t i = 0; i < rows; ++i) backward_gates(p, first + i * chain.stride, dh.at(i * hidden));
    for (int64_t column = 0; column < hidden; column += kWide * kLanes) {
      for (int64_t i = 0; i < rows; i += kRows) {
        backward_rows(packed + column * 3 * hidden, p.drecurrent + (first + i * chain.stride) * 3 * hidden,
                      chain.stride * 3 * hidden, dh.at(i * hidden), hidden, column, least(kRows, rows - i));
      }
    }
  }
  for (int64_t i = 0; i < chain.rows(s.batch); ++i) copy(dh.at(i * hidden), hidden, states + chain.row(i) * hidden);
}

// Every direction is cut into chains, at least one a thread; rows with neighbouring lengths go to different chains.
template <typename Params, typename Pack, typename Run>
void run_chains(const Params& p, int threads, Pack pack, Run run) {
  const GruShape& s = p.shape;
  const int64_t cut = least(s.batch, blocks(threads, s.directions));
  Buffer packed[2];
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t d = 0; d < s.directions; ++d) packed[d] = pack(p.w_hh + d * 3 * s.hidden * s.hidden, s.hidden);
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < s.directions * cut; ++item) {
      run(p, packed[item / cut].at(0), Chain{item / cut, item % cut, cut});
    }
  }
}

}  // namespace

void forward(const GruForwardParams& p, int threads) { run_chains(p, threads, pack_forward, forward_chain); }

void backward(const GruBackwardParams& p, int threads) { run_chains(p, threads, pack_backward, backward_chain); }

}  // namespace CRRL_ISA
}  // namespace crrl
