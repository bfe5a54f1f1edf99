// The operands of the GRU's products for vector registers: rows as they are, elements of a panel in groups.
#pragma once

#include "product.hpp"

namespace crrl {
namespace CRRL_ISA {
namespace {

using Piece = Element;
constexpr int64_t kPieces = 1;       // that an element is stored as
constexpr int64_t kVecs = 1;         // vectors of units in a block of the forward pass
constexpr int64_t kDeep = 256;       // frames of a weight's gradient at a time: their panel stays in the cache
constexpr int64_t kTogether = 1;     // blocks of columns of a weight's gradient for which the channels are read once
constexpr int64_t kFrameBlock = 64;  // frames whose dx one thread computes at a time

struct Products {};

inline int64_t operand_size(int64_t rows, int64_t depth) { return rows * depth; }

// Where element k of a row begins in an operand [rows, depth]. A product begins at any row.
inline int64_t in_operand(int64_t depth, int64_t row, int64_t k) { return row * depth + k; }

// A vector along the depth of an operand.
inline void put(Piece* to, Vec value) { store(to, value); }
inline Vec get(const Piece* from) { return load(from); }

// Where depth k of vector v lies in a panel of V vectors.
template <int64_t V>
inline int64_t in_panel_of(int64_t, int64_t k, int64_t v) {
  return in_panel(k, v * kLanes, V * kLanes);
}

inline void put_words(Piece* panel, const IntVec (&words)[kPieces]) {
  std::memcpy(static_cast<void*>(panel), words, sizeof(words));
}

// Words along the depth of an operand, piece p of each.
inline void put_row_words(Piece* to, int64_t, IntVec words) {
  std::memcpy(static_cast<void*>(to), &words, sizeof(words));
}

// Words of kGroup elements along the depth: those of one row, of which `count` are left.
inline void load_words(const Element* from, int64_t count, IntVec (&words)[kPieces]) {
  words[0] = IntVec{};
  std::memcpy(words, from, least(count, kLanes * kGroup) * sizeof(Element));
}

// Words of kGroup elements along the depth, from as many vectors across it.
inline void make_words(const Vec (&values)[kGroup], IntVec (&words)[kPieces]) {
  words[0] = IntVec{};
  for (int64_t j = 0; j < kGroup; ++j) {
    IntVec bits;
    std::memcpy(&bits, &values[j], sizeof(bits));
    words[0] |= j + 1 < kGroup ? (IntVec)((UnsignedVec)bits >> 16) : bits;
  }
}

// Vector v, across the depth, of the words of rows k.. in an operand.
inline void interleave(const Piece* operand, int64_t depth, int64_t row, int64_t column, IntVec (&words)[kPieces]) {
  Vec values[kGroup];
  for (int64_t j = 0; j < kGroup; ++j) values[j] = load(operand + (row + j) * depth + column);
  make_words(values, words);
}

// sums += a panel.
template <int64_t R, int64_t V>
inline void add_product(const Piece* a, int64_t next, const Piece* panel, int64_t depth, Vec (&sums)[R][V]) {
  multiply<R, V>(a, next, panel, depth, sums);
}

// sums = a panel.
template <int64_t R, int64_t V>
inline void set_product(const Piece* a, int64_t next, const Piece* panel, int64_t depth, Vec (&sums)[R][V]) {
  std::memset(sums, 0, sizeof(sums));
  multiply<R, V>(a, next, panel, depth, sums);
}

}  // namespace
}  // namespace CRRL_ISA
}  // namespace crrl
