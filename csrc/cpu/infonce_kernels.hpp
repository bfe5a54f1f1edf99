// The arithmetic of infonce.hpp for one instruction set (see simd.hpp for what selects it).
//
// With l_j = q.key_j / temperature over the K keys of the queue and l the positive's logit, Eq. 6 and its gradient with
// respect to the normalised query are
//   loss = log(1 + e^odds),  gradient = sigmoid(odds) (sum_j e^l_j key_j / sum_j e^l_j - k) / temperature,
//   odds = log(sum_j e^l_j) - l,
// which loses no precision where the positive's probability is near 1. A tile of keys is read from memory once, both
// for the logits of all queries and for the sums of keys weighted by e^(l_j - the largest so far). The queue is cut
// into parts by its size alone, and the parts are combined in order: the same bits for any number of threads.
#pragma once

#include "denormals.hpp"
#include "infonce.hpp"
#include "product.hpp"

namespace crrl {
namespace CRRL_ISA {
namespace {

constexpr int64_t kWide = 2;
constexpr int64_t kColumns = kWide * kLanes;  // queries, or features, that a register tile takes
constexpr int64_t kTile = 64;                 // keys at a time: with the queries they fit the second-level cache
constexpr int64_t kPartKeys = 512;            // a part has at least so many
constexpr int64_t kMostParts = 32;
constexpr float kNone = -3e38f;  // below every logit

inline float sum_lanes(Vec x) {
  float sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += x[lane];
  return sum;
}

// Four sums hide the latency of an addition; a single one would wait for itself.
inline float dot(const float* a, const float* b, int64_t size) {
  Vec sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= size; i += 4 * kLanes) {
    for (int64_t j = 0; j < 4; ++j) sums[j] += load(a + i + j * kLanes) * load(b + i + j * kLanes);
  }
  for (; i < size; i += kLanes) sums[0] += load(a + i, size - i) * load(b + i, size - i);
  return sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// What all parts read of the queries, and their results. Queries are padded to whole vectors, features to panels.
struct Shared {
  int64_t parts, part_keys, queries, features;
  Buffer<float> panels;           // [kColumns queries][D][query], normalised, over the temperature
  Buffer<float> norms, positive;  // [query]
  Buffer<float> largest, total,
      sums;               // [part][query], [part][query], [part][query][feature], total and sums by e^largest
  Buffer<double> losses;  // [query]

  explicit Shared(const InfoNce& p)
      : parts(least(kMostParts, blocks(p.keys, kPartKeys))),
        part_keys(round_up(blocks(p.keys, parts), kTile)),
        queries(round_up(p.batch, kLanes)),
        features(round_up(p.features, kColumns)),
        panels(queries * p.features),
        norms(queries),
        positive(queries),
        largest(parts * queries),
        total(parts * queries),
        sums(parts * queries * features),
        losses(queries) {}
};

// The memory of one thread.
struct Scratch {
  float* logits;   // [key][query]
  float* weights;  // [query][key]
  float* rescale;  // [query]
  float* panel;    // [key][kColumns features]

  static int64_t size(const Shared& s) { return 2 * kTile * s.queries + s.queries + kTile * kColumns; }
  Scratch(float* memory, const Shared& s)
      : logits(memory),
        weights(logits + kTile * s.queries),
        rescale(weights + kTile * s.queries),
        panel(rescale + s.queries) {}
};

// Columns of a panel that starts at query b: the last panel may be half as wide.
inline int64_t panel_width(const Shared& s, int64_t b) { return least(kColumns, s.queries - b); }

constexpr float kShortest = 1e-12f;  // as torch.nn.functional.normalize

inline float divisor(float norm) { return norm > kShortest ? norm : kShortest; }

// Writes a vector of queries into their panel, normalised and divided by the temperature.
void prepare(const InfoNce& p, Shared& s, int64_t b) {
  const int64_t count = least(kLanes, p.batch - b), first = b / kColumns * kColumns, width = panel_width(s, first);
  float scales[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) {
    const float* q = p.q + (b + i) * p.features;
    const float norm = __builtin_sqrtf(dot(q, q, p.features));
    scales[i] = static_cast<float>(1 / (p.temperature * divisor(norm)));
    *s.norms.at(b + i) = norm;
    *s.positive.at(b + i) = scales[i] * dot(q, p.k + (b + i) * p.features, p.features);
  }
  float* panel = s.panels.at(first * p.features) + b - first;
  for (int64_t d = 0; d < p.features; d += kLanes) {
    IntVec rows[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) {
      const Vec row = scales[i] * load(p.q + (b + i) * p.features + d, p.features - d);
      std::memcpy(&rows[i], &row, sizeof(row));
    }
    transpose_words(rows);
    for (int64_t i = 0; i < least(kLanes, p.features - d); ++i)
      std::memcpy(panel + (d + i) * width, &rows[i], sizeof(rows[i]));
  }
}

template <int64_t V>
void logits_of(const float* keys, int64_t count, int64_t features, const float* panel, int64_t next, float* logits) {
  for_tiles(count, [&](int64_t first, int64_t rows, auto tile) {
    constexpr int64_t R = decltype(tile)::value;
    Vec sums[R][V] = {};
    multiply<R, V>(keys + first * features, features, panel, features, sums);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t v = 0; v < V; ++v) store(logits + (first + i) * next + v * kLanes, sums[i][v]);
    }
  });
}

// Turns the logits of one vector of queries into weights relative to the largest so far, and adds these to the total.
void weigh(const Scratch& scratch, const Shared& s, int64_t count, int64_t b, float* largest, float* total) {
  const float* logits = scratch.logits + b;
  const Vec before = load(largest + b);
  Vec now = before, sum = {};
  for (int64_t j = 0; j < count; ++j) {
    const Vec logit = load(logits + j * s.queries);
    now = logit > now ? logit : now;
  }
  for (int64_t first = 0; first < count; first += kLanes) {
    IntVec rows[kLanes] = {};
    for (int64_t j = first; j < least(count, first + kLanes); ++j) {
      const Vec weight = exp(load(logits + j * s.queries) - now, -87.0f, 0.0f);
      sum += weight;
      std::memcpy(&rows[j - first], &weight, sizeof(weight));
    }
    transpose_words(rows);
    for (int64_t i = 0; i < kLanes; ++i) {
      std::memcpy(scratch.weights + (b + i) * kTile + first, &rows[i], sizeof(rows[i]));
    }
  }
  const Vec rescale = exp(before - now, -87.0f, 0.0f);
  store(scratch.rescale + b, rescale);
  store(largest + b, now);
  store(total + b, rescale * load(total + b) + sum);
}

// The weighted sum of a tile's keys, from column d on.
void add_keys(const InfoNce& p, const Scratch& scratch, const Shared& s, const float* keys, int64_t count, int64_t d,
              float* sums) {
  for (int64_t j = 0; j < count; ++j) {
    const float* from = keys + j * p.features + d;
    for (int64_t v = 0; v < kWide; ++v) {
      const int64_t left = p.features - d - v * kLanes;
      store(scratch.panel + j * kColumns + v * kLanes, left > 0 ? load(from + v * kLanes, left) : Vec{});
      __builtin_prefetch(from + kTile * p.features + v * kLanes, 0, 2);  // the next tile, into the second-level cache
    }
  }
  for_tiles(p.batch, [&](int64_t first, int64_t rows, auto tile) {
    constexpr int64_t R = decltype(tile)::value;
    Vec added[R][kWide] = {};
    multiply<R, kWide>(scratch.weights + first * kTile, kTile, scratch.panel, count, added);
    for (int64_t i = 0; i < rows; ++i) {
      float* to = sums + (first + i) * s.features + d;
      for (int64_t v = 0; v < kWide; ++v) {
        store(to + v * kLanes, load(to + v * kLanes) * scratch.rescale[first + i] + added[i][v]);
      }
    }
  });
}

void run_part(const InfoNce& p, Shared& s, const Scratch& scratch, int64_t part) {
  float *largest = s.largest.at(part * s.queries), *total = s.total.at(part * s.queries);
  float* sums = s.sums.at(part * s.queries * s.features);
  for (int64_t b = 0; b < s.queries; b += kLanes) store(largest + b, splat(kNone));
  zero(total, s.queries);
  zero(sums, s.queries * s.features);
  const int64_t last = least(p.keys, (part + 1) * s.part_keys);
  for (int64_t key = part * s.part_keys; key < last; key += kTile) {
    const int64_t count = least(kTile, last - key);
    const float* keys = p.queue + key * p.features;
    for (int64_t b = 0; b < s.queries; b += kColumns) {
      const auto compute = panel_width(s, b) == kColumns ? logits_of<kWide> : logits_of<1>;
      compute(keys, count, p.features, s.panels.at(b * p.features), s.queries, scratch.logits + b);
    }
    for (int64_t b = 0; b < s.queries; b += kLanes) weigh(scratch, s, count, b, largest, total);
    for (int64_t d = 0; d < p.features; d += kColumns) add_keys(p, scratch, s, keys, count, d, sums);
  }
}

// dq of one query from g, the gradient with respect to the normalised query, in place: the component along the query
// does not change its direction and drops out.
void through_norm(const float* q, float norm, int64_t features, float* g) {
  const float inverse = 1 / divisor(norm);
  const float along = norm > kShortest ? dot(q, g, features) * inverse * inverse : 0;
  for (int64_t d = 0; d < features; d += kLanes) {
    const int64_t left = features - d;
    store(g + d, (load(g + d, left) - along * load(q + d, left)) * inverse, left);
  }
}

// Combines the parts' results for one query: its loss, and dq.
void finish(const InfoNce& p, Shared& s, int64_t b) {
  float largest = kNone, factors[kMostParts];
  for (int64_t part = 0; part < s.parts; ++part) {
    const float other = *s.largest.at(part * s.queries + b);
    largest = other > largest ? other : largest;
  }
  double total = 0;
  for (int64_t part = 0; part < s.parts; ++part) {
    const int64_t i = part * s.queries + b;
    const double factor = __builtin_exp(static_cast<double>(*s.largest.at(i)) - largest);
    factors[part] = static_cast<float>(factor);
    total += factor * *s.total.at(i);
  }
  const double odds = __builtin_log(total) + largest - *s.positive.at(b), small = __builtin_exp(-__builtin_fabs(odds));
  *s.losses.at(b) = (odds > 0 ? odds : 0) + __builtin_log1p(small);
  const double others = (odds > 0 ? 1 : small) / (1 + small);  // the probability of all negatives together
  const double scale = others / (p.temperature * static_cast<double>(p.batch));
  const float of_sums = static_cast<float>(scale / total), of_k = static_cast<float>(scale);
  const int64_t row = b * p.features;
  for (int64_t d = 0; d < p.features; d += kLanes) {
    Vec sum = {};
    for (int64_t part = 0; part < s.parts; ++part) {
      sum += factors[part] * load(s.sums.at((part * s.queries + b) * s.features + d));
    }
    const int64_t left = p.features - d;
    store(p.dq + row + d, of_sums * sum - of_k * load(p.k + row + d, left), left);
  }
  through_norm(p.q + row, *s.norms.at(b), p.features, p.dq + row);
}

}  // namespace

void info_nce(const InfoNce& p, int threads) {
  Shared s(p);
  const int team = static_cast<int>(least(threads, s.parts));
  const int64_t each = round_up(Scratch::size(s), 16);
  Buffer<float> memory(team * each);
  const Deal parts(s.parts);
  parallel(team, [&] {
    const FlushDenormals flush;
    const Scratch scratch(memory.at(thread() * each), s);
    for_share(blocks(p.batch, kLanes), [&](int64_t block) { prepare(p, s, block * kLanes); });
    meet();
    parts.run([&](int64_t part) { run_part(p, s, scratch, part); });
    meet();
    for_share(p.batch, [&](int64_t b) { finish(p, s, b); });
  });
  double loss = 0;
  for (int64_t b = 0; b < p.batch; ++b) loss += *s.losses.at(b);
  *p.loss = static_cast<float>(loss / static_cast<double>(p.batch));
}

}  // namespace CRRL_ISA
}  // namespace crrl
