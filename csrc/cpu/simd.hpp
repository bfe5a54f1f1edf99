// Vectors, their functions and aligned memory for one instruction set. A source file selects the set by its compiler
// target and sets CRRL_ISA (a namespace), CRRL_LANES (floats in a vector register), CRRL_ROWS (rows in a register tile
// of product.hpp) and, for bfloat16 operands, CRRL_BF16 (and CRRL_AMX).
//
// Uses no templates of the standard library: the linker keeps one copy of each, and it could keep the one compiled for
// instructions that this processor lacks. Everything here is local to its source file.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(CRRL_AMX) && defined(CRRL_TILE_STAND_IN)
#define CRRL_NO_INTRINSICS
#pragma GCC diagnostic ignored "-Wpsabi"
#elif defined(__x86_64__)
#include <immintrin.h>
#endif

#include "parallel.hpp"
#include "workspace.hpp"

namespace crrl {
namespace CRRL_ISA {
namespace {

constexpr int64_t kLanes = CRRL_LANES;

typedef float Vec __attribute__((vector_size(CRRL_LANES * 4)));
typedef int32_t IntVec __attribute__((vector_size(CRRL_LANES * 4)));
typedef uint32_t UnsignedVec __attribute__((vector_size(CRRL_LANES * 4)));

// The type in which operands of products are stored; sums and states are always float.
#ifdef CRRL_BF16
struct Element {
  uint16_t bits;
};
#else
using Element = float;
#endif

inline Vec splat(float value) { return value - Vec{}; }

inline Vec load(const float* from) {
  Vec value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

inline void store(float* to, Vec value) { std::memcpy(to, &value, sizeof(value)); }

inline float to_float(float value) { return value; }

#if defined(CRRL_BF16) || defined(CRRL_AMX)
typedef uint16_t Half __attribute__((vector_size(CRRL_LANES * 2)));

// Vectors of bfloat16, rounded to nearest with ties to even, and their bits in words. By intrinsic, because g++ 12
// makes four instructions of a conversion.
#ifdef CRRL_NO_INTRINSICS
inline Half to_half(Vec value) {
  UnsignedVec bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, Half);
}
inline UnsignedVec widen_bits(Half half) { return __builtin_convertvector(half, UnsignedVec); }
#else
inline Half to_half(Vec value) { return reinterpret_cast<Half>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(value))); }
inline UnsignedVec widen_bits(Half half) {
  return reinterpret_cast<UnsignedVec>(_mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(half)));
}
#endif

inline Vec to_vec(Half half) {
  const UnsignedVec bits = widen_bits(half) << 16;
  Vec value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
#endif

#ifdef CRRL_BF16
inline Vec load(const Element* from) {
  Half half;
  std::memcpy(&half, from, sizeof(half));
  return to_vec(half);
}

inline void store(Element* to, Vec value) {
  const Half half = to_half(value);
  std::memcpy(to, &half, sizeof(half));
}

inline float to_float(Element value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}
#endif

// The last vector of a row may be short: only `count` lanes belong to it.
template <typename T>
inline Vec load(const T* from, int64_t count) {
  if (count >= kLanes) return load(from);
  T all[kLanes] = {};
  std::memcpy(all, from, count * sizeof(T));
  return load(all);
}

template <typename T>
inline void store(T* to, Vec value, int64_t count) {
  if (count >= kLanes) return store(to, value);
  T all[kLanes];
  store(all, value);
  std::memcpy(to, all, count * sizeof(T));
}

// NaN stays NaN. By intrinsic, because g++ makes a comparison and a choice of each bound.
inline Vec clamp(Vec x, float low, float high) {
#if CRRL_LANES == 16 && !defined(CRRL_NO_INTRINSICS)
  return (Vec)_mm512_maskz_min_ps(0xffff, (__m512)splat(high),
                                  _mm512_maskz_max_ps(0xffff, (__m512)splat(low), (__m512)x));
#elif CRRL_LANES == 8
  return (Vec)_mm256_min_ps((__m256)splat(high), _mm256_max_ps((__m256)splat(low), (__m256)x));
#else
  x = x < low ? splat(low) : x;
  return x > high ? splat(high) : x;
#endif
}

// Vectors that go through every operation side by side: a processor looks ahead too little to find that much work by
// itself.
template <int64_t N>
struct Vecs {
  Vec of[N];
};

template <int64_t N>
inline Vec at(const Vecs<N>& x, int64_t i) {
  return x.of[i];
}
inline float at(float x, int64_t) { return x; }

// f(i) for each vector.
template <int64_t N, typename F>
inline Vecs<N> each(const F& f) {
  Vecs<N> result;
  for (int64_t i = 0; i < N; ++i) result.of[i] = f(i);
  return result;
}

// a b + c in one expression, as the compiler rounds only such a one once. b and c may be numbers.
template <int64_t N, typename B, typename C>
inline Vecs<N> multiply_add(const Vecs<N>& a, const B& b, const C& c) {
  return each<N>([&](int64_t i) { return a.of[i] * at(b, i) + at(c, i); });
}

// e^x for x in [-87, 88], to about one unit in the last place: x = n ln 2 + r with |r| <= ln 2 / 2; e^r is a polynomial
// in r, and 2^n sets the exponent: the low bits of `shifted` are n.
template <int64_t N>
inline Vecs<N> exp(const Vecs<N>& x) {
  const float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  const auto shifted = multiply_add(x, 1.44269504f, to_integer);
  const auto n = each<N>([&](int64_t i) { return shifted.of[i] - to_integer; });
  const auto r = multiply_add(n, 2.12194440e-4f, multiply_add(n, -0.693359375f, x));
  auto p = multiply_add(r, 1.9875691500e-4f, 1.3981999507e-3f);
  p = multiply_add(p, r, 8.3334519073e-3f);
  p = multiply_add(p, r, 4.1665795894e-2f);
  p = multiply_add(p, r, 1.6666665459e-1f);
  p = multiply_add(p, r, 5.0000001201e-1f);
  p = each<N>([&](int64_t i) { return p.of[i] * (r.of[i] * r.of[i]) + (r.of[i] + 1.0f); });
  return each<N>([&](int64_t i) {
    IntVec bits, result;
    std::memcpy(&bits, &shifted.of[i], sizeof(bits));
    std::memcpy(&result, &p.of[i], sizeof(result));
    result += bits << 23;
    Vec value;
    std::memcpy(&value, &result, sizeof(value));
    return value;
  });
}

// The same of x bounded to [low, high].
template <int64_t N>
inline Vecs<N> exp(const Vecs<N>& x, float low, float high) {
  return exp(each<N>([&](int64_t i) { return clamp(x.of[i], low, high); }));
}

inline Vec exp(Vec x, float low, float high) { return exp(Vecs<1>{{x}}, low, high).of[0]; }

// Both with one division. Beyond -43 the result stays at 2e-19, so that the product of two denominators is finite.
template <int64_t N>
inline void sigmoids(Vecs<N>& x, Vecs<N>& y) {
  const auto a = exp(each<N>([&](int64_t i) { return -x.of[i]; }), -87.0f, 43.0f);
  const auto b = exp(each<N>([&](int64_t i) { return -y.of[i]; }), -87.0f, 43.0f);
  const auto inverse = each<N>([&](int64_t i) { return 1.0f / ((1.0f + a.of[i]) * (1.0f + b.of[i])); });
  x = each<N>([&](int64_t i) { return (1.0f + b.of[i]) * inverse.of[i]; });
  y = each<N>([&](int64_t i) { return (1.0f + a.of[i]) * inverse.of[i]; });
}

// Near 0, where 1 - 2 / (e^2x + 1) would cancel, an odd polynomial.
template <int64_t N>
inline Vecs<N> tanh(const Vecs<N>& x) {
  const auto s = each<N>([&](int64_t i) { return x.of[i] * x.of[i]; });
  auto p = multiply_add(s, -5.70498872745e-3f, 2.06390887954e-2f);
  p = multiply_add(p, s, -5.37397155531e-2f);
  p = multiply_add(p, s, 1.33314422036e-1f);
  p = multiply_add(p, s, -3.33332819422e-1f);
  const auto e = exp(each<N>([&](int64_t i) { return 2.0f * x.of[i]; }), -87.0f, 88.0f);
  return each<N>([&](int64_t i) {
    const Vec small = p.of[i] * (s.of[i] * x.of[i]) + x.of[i], large = 1.0f - 2.0f / (1.0f + e.of[i]);
    return s.of[i] < 0.390625f ? small : large;
  });
}

inline bool any(IntVec lanes) {
  bool found = false;
  for (int64_t i = 0; i < kLanes; ++i) found |= lanes[i] != 0;
  return found;
}

// For each bit of an index: which lanes of two rows (the second row's are numbered on) make the new rows.
struct Exchanges {
  static constexpr int64_t kBits = kLanes == 16 ? 4 : kLanes == 8 ? 3 : 2;
  int32_t first[kBits][kLanes] = {};
  int32_t second[kBits][kLanes] = {};

  constexpr Exchanges() {
    for (int64_t bit = 0; bit < kBits; ++bit) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const int64_t step = 1 << bit;
        const bool has = (lane & step) != 0;
        first[bit][lane] = static_cast<int32_t>(has ? kLanes + lane - step : lane);
        second[bit][lane] = static_cast<int32_t>(has ? kLanes + lane : lane + step);
      }
    }
  }
};

constexpr Exchanges kExchanges;

template <int64_t... lanes>
struct Lanes {};

template <int64_t count, int64_t... lanes>
struct LanesTo : LanesTo<count - 1, count - 1, lanes...> {};

template <int64_t... lanes>
struct LanesTo<0, lanes...> {
  using Type = Lanes<lanes...>;
};

// Rows a and b with the lanes exchanged that `bit` tells apart. clang takes lanes only as constants, GCC before 12 only
// as a vector.
template <int64_t bit, int64_t... lanes>
inline void exchange(IntVec& a, IntVec& b, Lanes<lanes...>) {
#ifdef __clang__
  const IntVec first = __builtin_shufflevector(a, b, kExchanges.first[bit][lanes]...);
  b = __builtin_shufflevector(a, b, kExchanges.second[bit][lanes]...);
#else
  const IntVec first = __builtin_shuffle(a, b, IntVec{kExchanges.first[bit][lanes]...});
  b = __builtin_shuffle(a, b, IntVec{kExchanges.second[bit][lanes]...});
#endif
  a = first;
}

// Transposes a square of 32-bit words: for each bit of the index, the lanes that have it change places with rows.
template <int64_t bit = 0>
inline void transpose_words(IntVec (&rows)[kLanes]) {
  if constexpr (bit < Exchanges::kBits) {
    for (int64_t i = 0; i < kLanes; ++i) {
      if ((i >> bit & 1) == 0) exchange<bit>(rows[i], rows[i + (1 << bit)], typename LanesTo<kLanes>::Type());
    }
    transpose_words<bit + 1>(rows);
  }
}

// As in transposing, but two rows that would change places become one, their sum; the result is in the first row.
template <int64_t bit = 0>
inline void add_up(Vec (&rows)[kLanes]) {
  if constexpr (bit < Exchanges::kBits) {
    for (int64_t i = 0; i < kLanes; i += 2 << bit) {
      IntVec a, b;
      std::memcpy(&a, &rows[i], sizeof(a));
      std::memcpy(&b, &rows[i + (1 << bit)], sizeof(b));
      exchange<bit>(a, b, typename LanesTo<kLanes>::Type());
      Vec one, other;
      std::memcpy(&one, &a, sizeof(a));
      std::memcpy(&other, &b, sizeof(b));
      rows[i] = one + other;
    }
    add_up<bit + 1>(rows);
  }
}

// The sums of the lanes of every row.
inline Vec sum_rows(const Vec (&rows)[kLanes]) {
  Vec left[kLanes];
  std::memcpy(left, rows, sizeof(left));
  add_up(left);
  return left[0];
}

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

inline int64_t most(int64_t a, int64_t b) { return a < b ? b : a; }

inline int64_t blocks(int64_t size, int64_t block) { return (size + block - 1) / block; }

inline int64_t round_up(int64_t size, int64_t block) { return blocks(size, block) * block; }

// Memory aligned to cache lines, uninitialised. Construct it outside parallel regions: it throws if there is no memory.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : bytes_(round_up(size * static_cast<int64_t>(sizeof(T)), 64) + 64),
        data_(static_cast<T*>(take_workspace(bytes_))) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { give_workspace(data_, bytes_); }
  T* at(int64_t index = 0) { return data_ + index; }

 private:
  int64_t bytes_;
  T* data_;
};

template <typename T>
inline void swap(T*& a, T*& b) {
  T* const c = a;
  a = b;
  b = c;
}

template <typename T>
inline void zero(T* to, int64_t count) {
  std::memset(static_cast<void*>(to), 0, count * sizeof(T));
}

template <typename T>
inline void copy(const T* from, int64_t count, T* to) {
  std::memcpy(static_cast<void*>(to), from, count * sizeof(T));
}

}  // namespace
}  // namespace CRRL_ISA
}  // namespace crrl
