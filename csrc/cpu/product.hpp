// Matrix products for one instruction set: register tiles of a few rows by a few vectors of columns, over operands that
// were packed so that a tile reads through memory.
#pragma once

#include "simd.hpp"
#ifdef CRRL_AMX
#include "amx.hpp"
#endif

namespace crrl {
namespace CRRL_ISA {
namespace {

constexpr int64_t kRows = CRRL_ROWS;
#ifdef CRRL_AMX
constexpr int64_t kTall = kRows;
#else
constexpr int64_t kTall = kRows * 3 / 2;  // rows of a tile of two vectors, where kRows is that of three
#endif

// Elements that one instruction multiplies along the depth of a product; depths are padded to this with zeros.
#if defined(CRRL_AMX)
constexpr int64_t kDepth = 32;
constexpr int64_t kRowStep = 16;  // from one size of tile to the next
#elif defined(CRRL_BF16)
constexpr int64_t kDepth = 2;
constexpr int64_t kRowStep = 1;
#else
constexpr int64_t kDepth = 1;
constexpr int64_t kRowStep = 1;
#endif

// A panel holds V vectors of columns for every depth k. Elements that one lane multiplies together lie side by side.
#ifdef CRRL_BF16
constexpr int64_t kGroup = 2;
#else
constexpr int64_t kGroup = 1;
#endif

#ifdef CRRL_BF16
constexpr int64_t kShort = int64_t{1} << 40;  // rounding the operands outweighs rounding their sums
#else
constexpr int64_t kShort = 128;  // depths summed from zero before they join the rest: long sums round more
#endif
constexpr int64_t kAhead = 16;  // how many depths ahead of its use a panel is fetched from the second-level cache

// Where panel column `j` of depth `k` lies, for a panel of `width` columns.
inline int64_t in_panel(int64_t k, int64_t j, int64_t width) {
  return (k / kGroup) * width * kGroup + j * kGroup + k % kGroup;
}

#ifdef CRRL_AMX
// A thread's use of the tile registers.
class Products {
 public:
  Products() {
    static const TileConfig config;
    _tile_loadconfig(&config);
  }
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;
  ~Products() { _tile_release(); }
};

// sums[i][v] += a[i] panel[v] for 16 rows of `a`, `next` elements apart. Tiles 0-2 are sums, 3-5 columns, 6 rows.
template <int64_t R, int64_t V>
__attribute__((noinline)) void multiply(const Element* a, int64_t next, const Element* panel, int64_t depth,
                                        Vec (&sums)[R][V]) {
  static_assert(R == 16 && (V == 2 || V == 3));
  constexpr int row = V * 64;  // bytes, of `sums` and of a panel
  float* const out = reinterpret_cast<float*>(sums);
  _tile_loadd(0, out, row);
  _tile_loadd(1, out + 16, row);
  if constexpr (V == 3) _tile_loadd(2, out + 32, row);
  for (int64_t k = 0; k < depth; k += kDepth, panel += kDepth * V * kLanes) {
    _tile_loadd(6, a + k, next * 2);
    _tile_loadd(3, panel, row);
    _tile_loadd(4, panel + 32, row);
    if constexpr (V == 3) _tile_loadd(5, panel + 64, row);
    _tile_dpbf16ps(0, 6, 3);
    _tile_dpbf16ps(1, 6, 4);
    if constexpr (V == 3) _tile_dpbf16ps(2, 6, 5);
  }
  _tile_stored(0, out, row);
  _tile_stored(1, out + 16, row);
  if constexpr (V == 3) _tile_stored(2, out + 32, row);
}

#else
struct Products {};

#ifdef CRRL_BF16
// A pair of elements in every lane.
inline __m512bh broadcast(const Element* pair) {
  int32_t bits;
  std::memcpy(&bits, pair, sizeof(bits));
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(bits));
}

inline __m512bh load_columns(const Element* from) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(from)); }

inline Vec multiply_add(Vec sum, __m512bh w, __m512bh a) {
  return reinterpret_cast<Vec>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), w, a));
}
#else
inline Vec broadcast(const float* value) { return splat(*value); }

inline Vec load_columns(const float* from) { return load(from); }

inline Vec multiply_add(Vec sum, Vec w, Vec a) { return sum + w * a; }
#endif

// Fetches what lies kAhead depths behind one of a panel of V vectors, a line at a time.
template <int64_t V>
inline void fetch_ahead(const Element* depth) {
  constexpr int64_t count = V * kLanes * kGroup, line = 64 / static_cast<int64_t>(sizeof(Element));
  for (int64_t i = 0; i < count; i += line) __builtin_prefetch(depth + kAhead * count + i);
}

// sums[i][v] += a[i] panel[v] for R rows of `a`, `next` elements apart. An address reaches three rows from one
// register, and the loop has a function of its own: else there would be too few registers.
template <int64_t R, int64_t V>
__attribute__((noinline)) void multiply(const Element* a, int64_t next, const Element* panel, int64_t depth,
                                        Vec (&sums)[R][V]) {
  constexpr int64_t bases = (R + 2) / 3;
  const Element* base[bases];
  for (int64_t j = 0; j < bases; ++j) base[j] = a + 3 * j * next;
  Vec sum[R][V];
  const auto step = [&](int64_t k) __attribute__((always_inline)) {
    decltype(load_columns(panel)) w[V];
    fetch_ahead<V>(panel + k * V * kLanes * kGroup);
    for (int64_t v = 0; v < V; ++v) w[v] = load_columns(panel + (k * V * kLanes + v * kLanes) * kGroup);
    for (int64_t i = 0; i < R; ++i) {
      const auto value = broadcast(base[i / 3] + i % 3 * next + k * kDepth);
      for (int64_t v = 0; v < V; ++v) sum[i][v] = multiply_add(sum[i][v], w[v], value);
    }
  };
  const auto advance = [&](int64_t steps) __attribute__((always_inline)) {
    for (int64_t k = 0; k < steps; ++k) step(k);
    for (int64_t j = 0; j < bases; ++j) base[j] += steps * kDepth;
    panel += steps * V * kLanes * kGroup;
  };
  for (int64_t first = 0; first < depth; first += kShort) {
    for (int64_t i = 0; i < R; ++i) {
      for (int64_t v = 0; v < V; ++v) sum[i][v] = Vec{};
    }
    int64_t left = least(kShort, depth - first) / kDepth;
    for (; left >= 2; left -= 2) advance(2);
    if (left > 0) advance(1);
    for (int64_t i = 0; i < R; ++i) {
      for (int64_t v = 0; v < V; ++v) sums[i][v] += sum[i][v];
    }
  }
}

// The same for a single row, in four sums: one alone would wait for itself. It rounds otherwise than `multiply`, so who
// takes it must not depend on how rows are dealt to threads.
template <int64_t V>
__attribute__((noinline)) void multiply_alone(const Element* a, const Element* panel, int64_t depth, Vec (&sums)[V]) {
  constexpr int64_t chains = 4;
  Vec parts[chains][V] = {};
  const auto step = [&](int64_t chain) __attribute__((always_inline)) {
    const auto value = broadcast(a);
    fetch_ahead<V>(panel);
    for (int64_t v = 0; v < V; ++v) {
      parts[chain][v] = multiply_add(parts[chain][v], load_columns(panel + v * kLanes * kGroup), value);
    }
    a += kDepth;
    panel += V * kLanes * kGroup;
  };
  int64_t left = depth / kDepth;
  for (; left >= chains; left -= chains) {
    for (int64_t chain = 0; chain < chains; ++chain) step(chain);
  }
  for (; left > 0; --left) step(0);
  for (int64_t v = 0; v < V; ++v) sums[v] += (parts[0][v] + parts[1][v]) + (parts[2][v] + parts[3][v]);
}
#endif

template <int64_t R>
struct Rows {
  static constexpr int64_t value = R;
};

template <int64_t R = kRows, typename Tile>
inline void run_tile(int64_t first, int64_t rows, const Tile& tile) {
  constexpr int64_t smaller = R - kRowStep;
  if constexpr (smaller > 0) {
    if (rows <= smaller) return run_tile<smaller>(first, rows, tile);
  }
  tile(first, rows, Rows<R>());
}

// Calls tile(first, rows, Rows<R>) for tiles of `count` rows; R >= rows, and R rows can be read.
template <int64_t R = kRows, typename Tile>
inline void for_tiles(int64_t count, const Tile& tile) {
  for (int64_t i = 0; i < count; i += R) run_tile<R>(i, least(R, count - i), tile);
}

// Interleaves rows k, k + 1, ... of a matrix as a panel takes them: `count` rows of `width` columns, `stride` apart,
// into depths k.. of a panel that has `width` columns.
inline void pack_rows(const Element* from, int64_t stride, int64_t count, int64_t width, Element* panel) {
  int64_t k = 0;
#ifdef CRRL_BF16
  for (; k + 1 < count; k += 2) {
    for (int64_t j = 0; j < width; j += kLanes) {
      const IntVec pair = load_bits(from + k * stride + j) | load_bits(from + (k + 1) * stride + j) << 16;
      std::memcpy(static_cast<void*>(panel + in_panel(k, j, width)), &pair, sizeof(pair));
    }
  }
#endif
  for (; k < count; ++k) {
    for (int64_t j = 0; j < width; ++j) panel[in_panel(k, j, width)] = from[k * stride + j];
  }
}

}  // namespace
}  // namespace CRRL_ISA
}  // namespace crrl
