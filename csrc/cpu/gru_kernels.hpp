// The arithmetic of gru.hpp for one instruction set (see simd.hpp for what selects it).
//
// A layer is divided into chains: some rows of one direction, in the order of falling length. One thread takes a chain
// through time on its own, or a crew of threads does together, each computing some of the units. Rows that have ended
// drop out, so ragged rows cost only their frames. A row's results depend neither on its chain nor on the crew. Units
// are padded to kPad with zeros, which stay zeros.
#pragma once

#include "denormals.hpp"
#include "gru_plan.hpp"
#ifdef CRRL_AMX
#include "tile_operands.hpp"
#else
#include "vector_operands.hpp"
#endif

namespace crrl {
namespace CRRL_ISA {
namespace {

constexpr int64_t kGates = 3;
constexpr int64_t kWide = 2;  // vectors of columns in a tile of a backward product
constexpr int64_t kColumns = kWide * kLanes;
constexpr int64_t kUnits = kVecs * kLanes;  // in a block of the forward pass

inline int64_t padded(int64_t size) { return round_up(size, kPad); }

inline const Element* element(const void* data) { return static_cast<const Element*>(data); }
inline Element* element(void* data) { return static_cast<Element*>(data); }

inline const Element* frame(const Frames<const void>& x, int64_t b, int64_t t) {
  return element(x.data) + b * x.row + t * x.step;
}
inline Element* frame(const Frames<void>& x, int64_t b, int64_t t) { return element(x.data) + b * x.row + t * x.step; }

void zero_padding(const GruLayer& layer, const GruPlan& plan, int64_t b, int64_t channels, const Frames<void>& x) {
  for (int64_t t = plan.lengths[b]; t < layer.steps; ++t) zero(frame(x, b, t), channels);
}

inline bool runs_back(const GruLayer& layer, int64_t direction) { return direction == 1 && layer.reverse; }

// Rows first, first + stride, ... of the plan's order.
struct Chain {
  const GruLayer* layer;
  const GruPlan* plan;
  int64_t direction;
  int64_t first;
  int64_t stride;

  int64_t size() const { return blocks(layer->batch - first, stride); }
  int64_t row(int64_t i) const { return plan->order[first + i * stride]; }
  int64_t length(int64_t i) const { return plan->lengths[row(i)]; }
  // How many rows have a step s; `known` is at least that many.
  int64_t active(int64_t s, int64_t known) const {
    while (known > 0 && length(known - 1) <= s) --known;
    return known;
  }
  // The frame that row i reaches in step s.
  int64_t time(int64_t i, int64_t s) const { return runs_back(*layer, direction) ? length(i) - 1 - s : s; }
};

// The threads that take a chain through time together, and the number of this one among them.
struct Crew {
  int64_t number = 0, size = 1;

  // The first unit of a member, which has the units up to the next member's first; they may be none.
  int64_t first(int64_t units, int64_t member) const { return units / kPad * member / size * kPad; }
  void meet() const {
    if (size > 1) crrl::meet();
  }
};

// About how many nanoseconds a thread takes for a step of `rows` rows, on average, through `weights` recurrent weights.
inline double step_time(double rows, double weights) {
  constexpr double near = 80, far = 20;  // bytes a nanosecond, from a core's own cache and from beyond it
  const double bytes = weights * kPieces * sizeof(Piece), least_rows = static_cast<double>(kRowStep);
  const double reading = bytes / (bytes < cache_size() ? near : far);
  const double multiplying = (rows > least_rows ? rows : least_rows) * weights / kRate;
  return reading > multiplying ? reading : multiplying;
}

// Chooses a crew if it is clearly faster than one thread for each chain: for few rows, or for weights that do not fit
// into a core's cache. `least_size`: the least size of a crew; all threads if they have more to do than the recurrence.
GruCrew choose_crew(const GruLayer& layer, const GruPlan& plan, int threads, int least_size) {
  constexpr double meeting = 300, meeting_each = 150, start = 1500, start_each = 500, clearly = 0.8;
  const int64_t longest = plan.lengths[plan.order[0]], units = padded(layer.hidden);
  const double steps = static_cast<double>(longest), directions = static_cast<double>(layer.directions);
  const double rows = static_cast<double>(plan.frames) / steps, weights = static_cast<double>(kGates * units * units);
  const auto time = [&](int64_t n, double each_step) {
    return steps * each_step + (n == 1 ? 0 : start + start_each * static_cast<double>(n));
  };
  // few frames do not pay for more threads than directions
  const int64_t alone = plan.frames <= kFewFrames ? least(threads, layer.directions) : threads;
  const int64_t parts = least(layer.batch, blocks(alone, layer.directions));
  const double rounds = static_cast<double>(blocks(parts * layer.directions, alone));
  const double each = rows * static_cast<double>(blocks(layer.batch, parts)) / static_cast<double>(layer.batch);
  GruCrew best = {1, alone, time(alone, rounds * step_time(each, weights))};
  const double most_time = clearly * best.nanoseconds;
  for (int64_t n = most(2, least_size); n <= threads && (n <= units / kPad || n == least_size); ++n) {
    const double members = static_cast<double>(least(n, units / kPad));
    const double step = step_time(rows, weights / members) + meeting + meeting_each * static_cast<double>(n);
    const GruCrew crew = {n, n, time(n, directions * step)};
    if (crew.nanoseconds < (best.size == 1 ? most_time : best.nanoseconds)) best = crew;
  }
  return best;
}

// How a call is divided among threads. Rows with neighbouring lengths go to different chains.
struct Cut {
  int64_t crew, threads;  // in a crew (1: each chain has its own thread), and in all
  int64_t per_direction, chains, rows;

  Cut(const GruLayer& layer, const GruPlan& plan, int given, int least_crew) {
    const GruCrew chosen = choose_crew(layer, plan, given, least_crew);
    crew = chosen.size, threads = chosen.threads;
    const int64_t parts = crew > 1 ? 1 : blocks(threads, layer.directions);
    per_direction = least(layer.batch, most(parts, blocks(layer.batch, kChainRows)));
    chains = per_direction * layer.directions;
    rows = blocks(layer.batch, per_direction);
  }

  // The number of chains under way at a time.
  int64_t at_once() const { return crew > 1 ? 1 : chains; }

  Chain chain(const GruLayer& layer, const GruPlan& plan, int64_t number) const {
    return {&layer, &plan, number / per_direction, number % per_direction, per_direction};
  }
};

// Elements of a row along the depth of an operand, zero past the last.
void put_row(const Element* from, int64_t count, int64_t depth, int64_t row, Piece* operand) {
  for (int64_t k = 0; k < depth; k += kLanes) {
    put(operand + in_operand(depth, row, k), k < count ? load(from + k, count - k) : Vec{});
  }
}

// W [3H, depth] for one block of units as a panel of kGates * kVecs vectors, zero past H and past the depth.
void pack_gates(const Element* w, int64_t hidden, int64_t depth, int64_t unit, Piece* panel) {
  constexpr int64_t width = kGates * kVecs;
  const int64_t deep = padded(depth);
  for (int64_t v = 0; v < width; ++v) {
    const int64_t start = unit + v % kVecs * kLanes, count = least(kLanes, hidden - start);
    for (int64_t k = 0; k < deep; k += kLanes * kGroup) {
      IntVec rows[kPieces][kLanes];
      if (count < kLanes || k >= depth) std::memset(rows, 0, sizeof(rows));
      for (int64_t lane = 0; lane < count && k < depth; ++lane) {
        load_words(w + (v / kVecs * hidden + start + lane) * depth + k, depth - k, &rows[0][lane]);
      }
      for (int64_t p = 0; p < kPieces; ++p) transpose_words(rows[p]);
      for (int64_t i = 0; i < kLanes && k + i * kGroup < deep; ++i) {
        put_words(panel + in_panel_of<width>(deep, k + i * kGroup, v), &rows[0][i]);
      }
    }
  }
}

// Everything that the forward pass reads of the weights, packed: [direction][block of units]. For few frames, it reads
// the matrices unpacked.
struct ForwardWeights {
  bool packed;
  int64_t input_depth, hidden, units;  // units: padded
  Buffer<Piece> input, recurrent;
  Buffer<float> biases;  // [direction][block][r, z, n of the input's side, n of the state's side][unit]

  ForwardWeights(const GruLayer& layer, bool packed)
      : packed(packed),
        input_depth(padded(layer.input)),
        hidden(layer.hidden),
        units(padded(layer.hidden)),
        input(packed * layer.directions * units * kGates * input_depth * kPieces),
        recurrent(packed * layer.directions * units * kGates * units * kPieces),
        biases(layer.directions * units * (kGates + 1)) {}

  Piece* input_panel(int64_t d, int64_t unit) { return input.at((d * units + unit) * kGates * input_depth * kPieces); }
  Piece* recurrent_panel(int64_t d, int64_t unit) {
    return recurrent.at((d * units + unit) * kGates * units * kPieces);
  }
  float* bias(int64_t d, int64_t unit) { return biases.at((d * units + unit) * (kGates + 1)); }

  void pack(const GruLayer& layer, int64_t d, int64_t unit) {
    if (packed) {
      pack_gates(element(layer.w_ih[d]), hidden, layer.input, unit, input_panel(d, unit));
      pack_gates(element(layer.w_hh[d]), hidden, hidden, unit, recurrent_panel(d, unit));
    }
    float* to = bias(d, unit);
    zero(to, (kGates + 1) * kUnits);
    if (layer.b_ih[d] == nullptr) return;
    const Element *b_ih = element(layer.b_ih[d]), *b_hh = element(layer.b_hh[d]);
    for (int64_t i = 0; i < least(kUnits, hidden - unit); ++i) {
      const int64_t r = unit + i, z = hidden + r, n = hidden + z;
      to[i] = to_float(b_ih[r]) + to_float(b_hh[r]);
      to[kUnits + i] = to_float(b_ih[z]) + to_float(b_hh[z]);
      to[2 * kUnits + i] = to_float(b_ih[n]);
      to[3 * kUnits + i] = to_float(b_hh[n]);
    }
  }
};

// The destinations of the results of a row's step.
struct Target {
  Element* y;
  Element* h_n;      // null except in the row's last step
  Element* reserve;  // null in inference
};

// Memory of the chains under way at once. Buffers have kRows rows more than used: a tile may read past the last one.
struct ForwardScratch {
  int64_t chunk_steps, rows, frames, depth, units;
  Buffer<Piece> x;         // [chain][frames of a chunk, padded I]
  Buffer<float> gates;     // [chain][frames of a chunk][block of units][r, z, n][unit], W_ih x and the biases
  Buffer<float> states;    // [chain][2][rows, units], before and after a step
  Buffer<Piece> operand;   // the same as an operand
  Buffer<Target> targets;  // [chain or member of its crew][rows]

  ForwardScratch(const GruLayer& layer, const Cut& cut)
      : chunk_steps(cut.rows < kChunk ? kChunk / cut.rows : 1),
        rows(cut.rows + kRows),
        frames(chunk_steps * cut.rows + kRows),
        depth(padded(layer.input)),
        units(padded(layer.hidden)),
        x(cut.at_once() * operand_size(frames, depth)),
        gates(cut.at_once() * frames * kGates * units),
        states(cut.at_once() * 2 * rows * units),
        operand(cut.at_once() * 2 * operand_size(rows, units)),
        targets(cut.at_once() * cut.crew * rows) {}
};

class ForwardChain {
 public:
  // place: the place of its memory in the scratch, which a crew shares.
  ForwardChain(const GruForward& p, ForwardWeights& weights, ForwardScratch& scratch, const Chain& chain, int64_t place,
               const Crew& crew)
      : p_(p),
        layer_(p.layer),
        weights_(weights),
        chain_(chain),
        crew_(crew),
        units_(scratch.units),
        first_(crew.first(units_, crew.number)),
        last_(crew.first(units_, crew.number + 1)),
        chunk_steps_(scratch.chunk_steps),
        size_(scratch.rows * units_),
        pieces_(operand_size(scratch.rows, units_)),
        x_(scratch.x.at(place * operand_size(scratch.frames, scratch.depth))),
        gates_(scratch.gates.at(place * scratch.frames * kGates * units_)),
        targets_(scratch.targets.at((place + crew.number) * scratch.rows)),
        before_(scratch.states.at(place * 2 * size_)),
        after_(before_ + size_),
        operand_(scratch.operand.at(place * 2 * pieces_)),
        next_operand_(operand_ + pieces_) {}

  // Whether no state is NaN; a NaN tells float32 by tiles that an operand was not finite.
  bool run() {
    if (crew_.number == 0) start();
    const int64_t longest = chain_.length(0);
    int64_t known = chain_.size();
    if (layer_.repeated) project(0, 1);
    for (int64_t s = 0; s < longest; s += chunk_steps_) {
      const int64_t end = least(longest, s + chunk_steps_);
      if (!layer_.repeated) project(s, end);
      const float* gates = gates_;
      for (int64_t now = s; now < end; ++now) {
        known = chain_.active(now, known);
        step(now, known, gates);
        crew_.meet();
        if (!layer_.repeated) gates += known * kGates * units_;
      }
    }
    return !any(nan_);
  }

 private:
  void start() {
    zero(before_, 2 * size_);
    zero(operand_, 2 * pieces_);
    if (layer_.h0 == nullptr) return;
    const int64_t hidden = layer_.hidden;
    for (int64_t i = 0; i < chain_.size(); ++i) {
      const int64_t b = chain_.row(i);
      const Element* h0 = element(layer_.h0) + (chain_.direction * layer_.batch + b) * hidden;
      for (int64_t unit = 0; unit < hidden; ++unit) before_[i * units_ + unit] = to_float(h0[unit]);
      put_row(h0, hidden, units_, i, operand_);
    }
  }

  // W_ih x + b for all frames of steps s..end of the chain, in the order of the steps. Each
  // member of the crew lays out some of the inputs; once it has met, all members have them all.
  void project(int64_t s, int64_t end) {
    const int64_t depth = weights_.input_depth;
    int64_t frames = 0, known = chain_.size();
    for (; s < end; ++s) {
      known = chain_.active(s, known);
      for (int64_t i = 0; i < known; ++i, ++frames) {
        if (frames % crew_.size != crew_.number) continue;
        put_row(frame(layer_.x, chain_.row(i), chain_.time(i, s)), layer_.input, depth, frames, x_);
      }
    }
    crew_.meet();
    for (int64_t unit = first_; unit < last_; unit += kUnits) {
      const float* bias = weights_.bias(chain_.direction, unit);
      for_tiles(frames, [&](int64_t first, int64_t, auto tile) {
        constexpr int64_t R = decltype(tile)::value;
        Vec sums[R][kGates * kVecs];
        const Piece* panel = weights_.input_panel(chain_.direction, unit);
        product(x_ + in_operand(depth, first, 0), depth, panel, layer_.w_ih, layer_.input, unit, sums);
        float* to = gates_ + (first * units_ + unit) * kGates;
        for (int64_t i = 0; i < R; ++i, to += kGates * units_) {
          for (int64_t v = 0; v < kGates * kVecs; ++v) store(to + v * kLanes, sums[i][v] + load(bias + v * kLanes));
        }
      });
    }
  }

  void aim(int64_t s, int64_t rows) {
    const int64_t hidden = layer_.hidden, d = chain_.direction;
    const GruPlan& plan = *chain_.plan;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t b = chain_.row(i), t = chain_.time(i, s), number = d * plan.frames + plan.starts[b] + t;
      const bool last = s + 1 == chain_.length(i);
      targets_[i].y = frame(p_.y, b, t) + d * hidden;
      targets_[i].h_n = last ? element(p_.h_n) + (d * layer_.batch + b) * hidden : nullptr;
      targets_[i].reserve = p_.reserve == nullptr ? nullptr : element(p_.reserve) + number * kReserved * units_;
    }
  }

  // One step of `rows` rows, from their projected gates.
  void step(int64_t s, int64_t rows, const float* gates) {
    aim(s, rows);
    for (int64_t unit = first_; unit < last_; unit += kUnits) {
      const Piece* panel = weights_.recurrent_panel(chain_.direction, unit);
      const float* bias = weights_.bias(chain_.direction, unit) + kGates * kUnits;
      for_tiles(rows, [&](int64_t first, int64_t count, auto tile) {
        constexpr int64_t R = decltype(tile)::value;
        Vec sums[R][kGates * kVecs];
        product(operand_ + in_operand(units_, first, 0), units_, panel, layer_.w_hh, layer_.hidden, unit, sums);
        // Two rows wait for their results less than one; where all is kept for the backward pass, writing it takes
        // longest.
        const int64_t end = kRowStep == 1 ? R : count;
        int64_t i = 0;
        if (p_.reserve == nullptr) {
          for (; i + 2 <= end; i += 2) finish<2>(first + i, unit, &sums[i], gates, bias);
        }
        for (; i < end; ++i) finish<1>(first + i, unit, &sums[i], gates, bias);
      });
    }
    swap(before_, after_);
    swap(operand_, next_operand_);
  }

  // Rows of an operand, `next` deep, times a block of units of a matrix, packed or not. Sums begin at zero and are
  // added to the rest at the end: adding small terms to a large number would round more.
  template <int64_t R>
  void product(const Piece* operand, int64_t next, const Piece* panel, const void* const (&matrix)[2], int64_t depth,
               int64_t unit, Vec (&sums)[R][kGates * kVecs]) const {
    if constexpr (kFewFrames > 0) {
      if (!weights_.packed) return product(operand, next, element(matrix[chain_.direction]), depth, unit, sums);
    }
    if constexpr (R == 1) {
      if (layer_.batch == 1) {
        std::memset(sums, 0, sizeof(sums));
        return multiply_alone(operand, panel, round_up(depth, kDepth), sums[0]);
      }
    }
    set_product(operand, next, panel, round_up(depth, kDepth), sums);
  }

  template <int64_t R>
  void product(const Piece* operand, int64_t next, const Element* w, int64_t depth, int64_t unit,
               Vec (&sums)[R][kGates * kVecs]) const {
    const int64_t hidden = layer_.hidden, end = kGates * hidden;
    for (int64_t gate = 0; gate < kGates; ++gate) {
      const int64_t row = gate * hidden + unit, ahead = gate + 1 < kGates ? hidden : kLanes - (kGates - 1) * hidden;
      const auto some = [&](auto rows, int64_t first) {
        Vec products[decltype(rows)::value];
        multiply_unpacked(operand + first * next, next, w + row * depth, depth, hidden - unit, end - row, ahead * depth,
                          products);
        for (int64_t i = 0; i < decltype(rows)::value; ++i) sums[first + i][gate] = products[i];
      };
      for (int64_t first = 0; first + 4 <= R; first += 4) some(Rows<4>(), first);
      if constexpr (R % 4 != 0) some(Rows<R % 4>(), R - R % 4);
    }
  }

  // The gates and the new states of some rows from row i on, for a block of units, from W_hh h and the projected gates.
  template <int64_t rows>
  void finish(int64_t i, int64_t unit, const Vec (*sums)[kGates * kVecs], const float* gates, const float* bias) {
    Vecs<rows * kVecs> r, z, n_h, n_x, before;
    for (int64_t row = 0, c = 0; row < rows; ++row) {
      const float* x = gates + ((i + row) * units_ + unit) * kGates;
      for (int64_t v = 0; v < kVecs; ++v, ++c, x += kLanes) {
        r.of[c] = sums[row][v] + load(x);
        z.of[c] = sums[row][kVecs + v] + load(x + kUnits);
        n_h.of[c] = sums[row][2 * kVecs + v] + load(bias + v * kLanes);
        n_x.of[c] = load(x + 2 * kUnits);
        before.of[c] = load(before_ + (i + row) * units_ + unit + v * kLanes);
      }
    }
    sigmoids(r, z);
    const auto n = tanh(multiply_add(r, n_h, n_x));
    const auto next = each<rows * kVecs>([&](int64_t c) { return (before.of[c] - n.of[c]) * z.of[c] + n.of[c]; });
    for (int64_t c = 0; c < rows * kVecs; ++c) {
      write(i + c / kVecs, unit + c % kVecs * kLanes, r.of[c], z.of[c], n.of[c], n_h.of[c], next.of[c]);
    }
  }

  // The results of a vector of units of row i.
  void write(int64_t i, int64_t unit, Vec r, Vec z, Vec n, Vec n_h, Vec h_next) {
    store(after_ + i * units_ + unit, h_next);
    put(next_operand_ + in_operand(units_, i, unit), h_next);
    if constexpr (kPieces > 1) nan_ |= h_next != h_next;
    const Target& target = targets_[i];
    if (target.reserve != nullptr) {
      Element* reserve = target.reserve + unit;
      store(reserve, r);
      store(reserve + units_, z);
      store(reserve + 2 * units_, n);
      store(reserve + 3 * units_, n_h);
      store(reserve + 4 * units_, h_next);
    }
    const int64_t count = layer_.hidden - unit;
    if (count <= 0) return;
    store(target.y + unit, h_next, count);
    if (target.h_n != nullptr) store(target.h_n + unit, h_next, count);
  }

  const GruForward& p_;
  const GruLayer& layer_;
  ForwardWeights& weights_;
  const Chain chain_;
  const Crew crew_;
  const int64_t units_, first_, last_;  // of all, and of this thread
  const int64_t chunk_steps_, size_, pieces_;
  Piece* x_;
  float* gates_;
  Target* targets_;
  float *before_, *after_;
  Piece *operand_, *next_operand_;
  IntVec nan_ = {};
};

// W [3H, columns] for one block of kColumns columns as a panel over the depth of all gates, in the order given.
void pack_columns(const Element* w, int64_t hidden, int64_t columns, const int64_t (&order)[kGates], int64_t column,
                  Piece* panel) {
  const int64_t units = padded(hidden), depth = kGates * units;
  for (int64_t k = 0; k < depth; k += kGroup) {
    const int64_t place = k / units, unit = k % units;
    for (int64_t v = 0; v < kWide; ++v) {
      const int64_t start = column + v * kLanes;
      Vec rows[kGroup] = {};
      for (int64_t j = 0; j < kGroup && unit + j < hidden && start < columns; ++j) {
        rows[j] = load(w + (order[place] * hidden + unit + j) * columns + start, columns - start);
      }
      IntVec words[kPieces][kLanes];
      make_words(rows, &words[0][0]);
      put_words(panel + in_panel_of<kWide>(depth, k, v), &words[0][0]);
    }
  }
}

// The gradients of a frame's gates, in four parts: n on the state's side, r, z, n on the input's side. The first three
// are the gradient of W_hh h + b_hh, the last three the gradient of W_ih x + b_ih.
constexpr int64_t kParts = 4;
constexpr int64_t kStateOrder[kGates] = {2, 0, 1};
constexpr int64_t kInputOrder[kGates] = {0, 1, 2};

// Memory of the whole backward pass. Buffers have kRows rows more than used: a tile may read past the last one.
struct BackwardScratch {
  bool repeated, packed;  // for few frames, matrices and operands are read unpacked
  int64_t units, frames, inputs_given, deep_blocks, part_stride, input_blocks, input_size, state_size;
  Buffer<Piece> parts;      // [direction][frame, part_stride]
  Buffer<Piece> row_parts;  // their sums over the frames of each row, likewise, if the input is repeated
  Buffer<float> row_sums;   // [chain][rows, kGates * units], these sums in the making
  Buffer<Piece> inputs;     // x transposed, [block of kDeep of the inputs given][I, kDeep]
  Buffer<Piece> states;     // per direction the state before each frame, likewise, [block][H, kDeep]
  Buffer<Piece> recurrent;  // W_hh in panels
  Buffer<Piece> input;      // W_ih in panels
  Buffer<Piece> operand;    // [chain or two of a crew's][rows, kGates * units], the gradient of W_hh h in one step
  Buffer<float> gradients;  // [chain][rows, units], dh
  Buffer<Piece> panels;     // [thread][kDeep, kColumns]
  Buffer<float> sums;       // [thread][block of kTogether][channels, kColumns], gradients of weights
  int64_t chain_rows;

  // The parts of two frames are not a power of two apart, as they would then share few sets of the cache.
  BackwardScratch(const GruBackward& p, const GruPlan& plan, const Cut& cut, int threads)
      : repeated(p.layer.repeated),
        packed(!kRowsAsPanels || plan.frames > kFewFrames),
        units(padded(p.layer.hidden)),
        frames(plan.frames),
        inputs_given(repeated ? p.layer.batch : plan.frames),
        deep_blocks(blocks(plan.frames, kDeep)),
        part_stride(kParts * units + kPad),
        input_blocks(p.dx.data == nullptr ? 0 : blocks(p.layer.input, kColumns)),
        input_size(p.layer.input + kRows),
        state_size(p.layer.hidden + kRows),
        parts(p.layer.directions * operand_size(frames + kRows, part_stride)),
        row_parts(repeated ? p.layer.directions * operand_size(inputs_given + kRows, part_stride) : 0),
        row_sums(repeated ? cut.at_once() * (cut.rows + kRows) * kGates * units : 0),
        inputs(packed * blocks(inputs_given, kDeep) * operand_size(input_size, kDeep)),
        states(packed * p.layer.directions * deep_blocks * operand_size(state_size, kDeep)),
        recurrent(packed * p.layer.directions * units * kGates * units * kPieces),
        input(packed * p.layer.directions * input_blocks * kColumns * kGates * units * kPieces),
        operand((cut.crew > 1 ? 2 : cut.chains) * operand_size(cut.rows + kRows, kGates * units)),
        gradients(cut.at_once() * (cut.rows + kRows) * units),
        panels(packed * threads * kDeep * kColumns * kPieces),
        sums(packed * threads * kTogether * (input_size + state_size) * kColumns),
        chain_rows(cut.rows + kRows) {}

  // The parts of all frames of a direction, an operand part_stride deep.
  Piece* part(int64_t d) { return parts.at(d * operand_size(frames + kRows, part_stride)); }
  // The parts that belong to the given inputs: of their frames, or the sums over the frames that repeat them.
  Piece* input_part(int64_t d) {
    return repeated ? row_parts.at(d * operand_size(inputs_given + kRows, part_stride)) : part(d);
  }
  Piece* input_block(int64_t block) { return inputs.at(block * operand_size(input_size, kDeep)); }
  Piece* state_block(int64_t d, int64_t block) {
    return states.at((d * deep_blocks + block) * operand_size(state_size, kDeep));
  }
  Piece* recurrent_panel(int64_t d, int64_t column) {
    return recurrent.at((d * units + column) * kGates * units * kPieces);
  }
  Piece* input_panel(int64_t d, int64_t block) {
    return input.at((d * input_blocks + block) * kColumns * kGates * units * kPieces);
  }
};

// The state that frame t of row b starts from, H elements; null: zeros.
const Element* state_before(const GruBackward& p, const GruPlan& plan, int64_t d, int64_t b, int64_t t) {
  const GruLayer& layer = p.layer;
  const bool back = runs_back(layer, d);
  if (t == (back ? plan.lengths[b] - 1 : 0)) {
    return layer.h0 == nullptr ? nullptr : element(layer.h0) + (d * layer.batch + b) * layer.hidden;
  }
  const int64_t number = plan.starts[b] + (back ? t + 1 : t - 1), units = padded(layer.hidden);
  return element(p.reserve) + ((d * plan.frames + number) * kReserved + kReserved - 1) * units;
}

// Channels c.. (kLanes of them) of kGroup frames as words, zero where there is no frame.
inline void load_frames(const Element* const* frames, int64_t c, int64_t channels, IntVec* words) {
  Vec values[kGroup] = {};
  for (int64_t j = 0; j < kGroup; ++j) {
    if (frames[j] != nullptr) values[j] = load(frames[j] + c, channels - c);
  }
  make_words(values, words);
}

constexpr int64_t kFrames = kLanes * kGroup;  // transposed at a time

// Frames first.. (kFrames of them) as columns of a block, [channels, kDeep]; zero where there is none.
template <typename Source>
void transpose(const Source& source, int64_t first, int64_t frames, int64_t channels, Piece* to) {
  const Element* from[kFrames];
  for (int64_t j = 0; j < kFrames; ++j) from[j] = first + j < frames ? source(first + j) : nullptr;
  for (int64_t c = 0; c < channels; c += kLanes) {
    IntVec rows[kPieces][kLanes];
    for (int64_t i = 0; i < kLanes; ++i) load_frames(from + i * kGroup, c, channels, &rows[0][i]);
    for (int64_t p = 0; p < kPieces; ++p) {
      transpose_words(rows[p]);
      for (int64_t i = 0; i < least(kLanes, channels - c); ++i) {
        put_row_words(to + in_operand(kDeep, c + i, first % kDeep), p, rows[p][i]);
      }
    }
  }
}

// sums += the gradients of the gates, in this order and from `operand` on, times the columns of unpacked W [3H,
// columns] from `column` on.
template <int64_t R>
void add_gates([[maybe_unused]] const Piece* operand, [[maybe_unused]] int64_t next, [[maybe_unused]] const Element* w,
               [[maybe_unused]] int64_t hidden, [[maybe_unused]] int64_t columns,
               [[maybe_unused]] const int64_t (&order)[kGates], [[maybe_unused]] int64_t column,
               [[maybe_unused]] Vec (&sums)[R][kWide]) {
  if constexpr (kRowsAsPanels) {
    for (int64_t place = 0; place < kGates; ++place) {
      const Element* const from = w + order[place] * hidden * columns + column;
      add_rows(operand + place * padded(hidden), next, from, hidden, columns, columns - column, sums);
    }
  }
}

class BackwardChain {
 public:
  // place: the place of its memory in the scratch, which a crew shares. A crew writes the operand of the next step
  // while it reads that of this one; a thread on its own has one operand, which stays in its cache.
  BackwardChain(const GruBackward& p, BackwardScratch& scratch, const Chain& chain, int64_t place, const Crew& crew)
      : p_(p),
        layer_(p.layer),
        scratch_(scratch),
        chain_(chain),
        crew_(crew),
        units_(scratch.units),
        first_(crew.first(units_, crew.number)),
        last_(crew.first(units_, crew.number + 1)),
        size_(operand_size(scratch.chain_rows, kGates * units_)),
        operand_(scratch.operand.at(place * size_)),
        next_operand_(crew.size > 1 ? operand_ + size_ : operand_),
        dh_(scratch.gradients.at(place * scratch.chain_rows * units_)),
        sums_(scratch.repeated ? scratch.row_sums.at(place * scratch.chain_rows * kGates * units_) : nullptr) {}

  // Whether no gradient is NaN.
  bool run() {
    const int64_t hidden = layer_.hidden, rows = chain_.size(), d = chain_.direction;
    if (crew_.number == 0) start(rows);
    crew_.meet();
    for (int64_t s = chain_.length(0) - 1; s >= 0; --s) step(s, chain_.active(s, rows));
    for (int64_t i = 0; i < rows; ++i) {
      Element* to = element(p_.dh0) + (d * layer_.batch + chain_.row(i)) * hidden;
      for (int64_t unit = first_; unit < least(hidden, last_); unit += kLanes) {
        const Vec dh0 = load(dh_ + i * units_ + unit);
        store(to + unit, dh0, hidden - unit);
        if constexpr (kPieces > 1) nan_ |= dh0 != dh0;
      }
    }
    if (sums_ != nullptr) write_sums(rows);
    crew_.meet();
    return !any(nan_);
  }

 private:
  void start(int64_t rows) {
    zero(dh_, scratch_.chain_rows * units_);
    zero(operand_, size_);
    if (next_operand_ != operand_) zero(next_operand_, size_);
    if (sums_ != nullptr) zero(sums_, rows * kGates * units_);
    for (int64_t i = 0; i < rows; ++i) {
      const Element* from = element(p_.dh_n) + (chain_.direction * layer_.batch + chain_.row(i)) * layer_.hidden;
      for (int64_t unit = 0; unit < layer_.hidden; ++unit) dh_[i * units_ + unit] = to_float(from[unit]);
    }
  }

  void write_sums(int64_t rows) {
    Piece* parts = scratch_.input_part(chain_.direction);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t gate = 0; gate < kGates; ++gate) {
        const float* from = sums_ + (i * kGates + gate) * units_;
        for (int64_t unit = first_; unit < last_; unit += kLanes) {
          const int64_t place = (gate + 1) * units_ + unit;
          put(parts + in_operand(scratch_.part_stride, chain_.row(i), place), load(from + unit));
        }
      }
    }
  }

  void step(int64_t s, int64_t rows) {
    for (int64_t i = 0; i < rows; ++i) gates(i, source(i, s));
    crew_.meet();
    for (int64_t column = first_; column < last_; column += kColumns) {
      const Piece* panel = scratch_.recurrent_panel(chain_.direction, column);
      for_tiles<kTall>(rows, [&](int64_t first, int64_t, auto tile) {
        constexpr int64_t R = decltype(tile)::value;
        const int64_t depth = kGates * units_;
        float* dh = dh_ + first * units_ + column;
        Vec sums[R][kWide];
        const Piece* operand = operand_ + in_operand(depth, first, 0);
        if (scratch_.packed) {
          set_product(operand, depth, panel, depth, sums);
        } else {
          const Element* w = element(layer_.w_hh[chain_.direction]);
          std::memset(sums, 0, sizeof(sums));
          add_gates(operand, depth, w, layer_.hidden, layer_.hidden, kStateOrder, column, sums);
        }
        for (int64_t i = 0; i < R; ++i) {
          for (int64_t v = 0; v < kWide; ++v) {
            float* to = dh + i * units_ + v * kLanes;
            store(to, load(to) + sums[i][v]);
          }
        }
      });
    }
    swap(operand_, next_operand_);
  }

  // The places that the gates of one frame are read from and written to.
  struct Source {
    const Element *reserve, *before, *dy;
    int64_t number;  // of the frame
  };

  // Elements from a frame's reserve to that of the frame which the next step takes.
  int64_t to_next_reserve() const { return (runs_back(layer_, chain_.direction) ? 1 : -1) * kReserved * units_; }

  Source source(int64_t i, int64_t s) const {
    const int64_t d = chain_.direction, b = chain_.row(i), t = chain_.time(i, s);
    const int64_t number = chain_.plan->starts[b] + t;
    return {element(p_.reserve) + (d * scratch_.frames + number) * kReserved * units_,
            state_before(p_, *chain_.plan, d, b, t), frame(p_.dy, b, t) + d * layer_.hidden, number};
  }

  // The gradients of the gates of one frame; dh becomes dh z, which reaches the state before directly.
  void gates(int64_t i, const Source& now) {
    Piece* parts = scratch_.part(chain_.direction);
    float* dh = dh_ + i * units_;
    const Element* next = now.reserve + to_next_reserve();  // only fetched: there may be no such frame
    for (int64_t unit = first_; unit < last_; unit += kLanes) {
      const int64_t count = layer_.hidden - unit;
      for (int64_t part = 0; part < kReserved - 1; ++part) __builtin_prefetch(next + part * units_ + unit, 0, 2);
      const Vec r = load(now.reserve + unit), z = load(now.reserve + units_ + unit);
      const Vec n = load(now.reserve + 2 * units_ + unit), n_h = load(now.reserve + 3 * units_ + unit);
      const Vec h = now.before == nullptr || count <= 0 ? Vec{} : load(now.before + unit, count);
      const Vec gradient = load(dh + unit) + (count <= 0 ? Vec{} : load(now.dy + unit, count));
      const Vec dn = gradient * (1.0f - z) * (1.0f - n * n);
      const Vec dr = dn * n_h * (r * (1.0f - r));
      const Vec dz = gradient * (h - n) * (z * (1.0f - z));
      const Vec made[kParts] = {dn * r, dr, dz, dn};
      for (int64_t part = 0; part < kParts; ++part) {
        put(parts + in_operand(scratch_.part_stride, now.number, part * units_ + unit), made[part]);
      }
      for (int64_t part = 0; part < kGates; ++part) {
        put(operand_ + in_operand(kGates * units_, i, part * units_ + unit), made[part]);
      }
      for (int64_t part = 0; sums_ != nullptr && part < kGates; ++part) {
        float* sum = sums_ + (i * kGates + part) * units_ + unit;
        store(sum, load(sum) + made[part + 1]);
      }
      store(dh + unit, gradient * z);
    }
  }

  const GruBackward& p_;
  const GruLayer& layer_;
  BackwardScratch& scratch_;
  const Chain chain_;
  const Crew crew_;
  const int64_t units_, first_, last_;  // of all, and of this thread
  const int64_t size_;                  // of an operand
  Piece *operand_, *next_operand_;
  float *dh_, *sums_;
  IntVec nan_ = {};
};

// The gradients of the weights and biases of a few blocks of kColumns gate units of one direction: products over all
// frames, kDeep of them at a time, which stay in the cache for all channels and blocks.
class WeightGradient {
 public:
  WeightGradient(const GruBackward& p, BackwardScratch& scratch, int64_t direction, int64_t first, int64_t blocks)
      : layer_(p.layer),
        scratch_(scratch),
        d_(direction),
        first_(first),
        blocks_(blocks),
        size_((scratch.input_size + scratch.state_size) * kColumns),
        panel_(scratch.panels.at(thread() * kDeep * kColumns * kPieces)),
        sums_(scratch.sums.at(thread() * kTogether * size_)),
        p_(p) {
    zero(sums_, blocks * size_);
  }

  // Whether no gradient is NaN.
  bool run() {
    if (!scratch_.repeated) {
      add_products(scratch_.part(d_), scratch_.frames, true, true);
    } else {
      add_products(scratch_.part(d_), scratch_.frames, true, false);
      add_products(scratch_.input_part(d_), scratch_.inputs_given, false, true);
    }
    for (int64_t block = 0; block < blocks_; ++block) write(block);
    return !any(nan_);
  }

 private:
  int64_t column(int64_t block) const { return (first_ + block) * kColumns; }
  int64_t part(int64_t block) const { return column(block) / scratch_.units; }
  int64_t unit(int64_t block) const { return column(block) % scratch_.units; }
  bool has_state(int64_t block) const { return part(block) < kGates; }
  bool has_input(int64_t block) const { return part(block) > 0; }
  float* state_sums(int64_t block) { return sums_ + block * size_; }
  float* input_sums(int64_t block) { return state_sums(block) + scratch_.state_size * kColumns; }

  // The products of the parts of `frames` frames with the state before them, with the input, and with 1 for the bias.
  // A block that has products with the state adds up its bias only together with these.
  void add_products(const Piece* parts, int64_t frames, bool with_state, bool with_input) {
    for (int64_t first = 0; first < frames; first += kDeep) {
      const int64_t deep = first / kDeep, count = least(kDeep, frames - first), depth = round_up(count, kDepth);
      for (int64_t block = 0; block < blocks_; ++block) {
        const bool state = with_state && has_state(block), input = with_input && has_input(block);
        if (!state && !input) continue;
        pack(parts, first, count, column(block));
        if (state || !has_state(block)) add_up(parts, first, count, column(block), bias_[block]);
        if (state) accumulate(scratch_.state_block(d_, deep), layer_.hidden, depth, state_sums(block));
        if (input) accumulate(scratch_.input_block(deep), layer_.input, depth, input_sums(block));
      }
    }
  }

  // Frames first.. as a panel; the depth past them is zero.
  void pack(const Piece* parts, int64_t first, int64_t count, int64_t column) {
    for (int64_t k = 0; k < round_up(count, kDepth); k += kGroup) {
      for (int64_t v = 0; v < kWide; ++v) {
        IntVec words[kPieces][kLanes];
        if (k + kGroup <= count) {
          interleave(parts, scratch_.part_stride, first + k, column + v * kLanes, &words[0][0]);
        } else {
          Vec values[kGroup] = {};
          if (k < count) values[0] = at(parts, first + k, column + v * kLanes);
          make_words(values, &words[0][0]);
        }
        put_words(panel_ + in_panel_of<kWide>(kDeep, k, v), &words[0][0]);
      }
    }
  }

  Vec at(const Piece* parts, int64_t number, int64_t column) const {
    return get(parts + in_operand(scratch_.part_stride, number, column));
  }

  void add_up(const Piece* parts, int64_t first, int64_t count, int64_t column, Vec (&bias)[kWide]) const {
    constexpr int64_t run = 16;
    Vec sums[kWide] = {};
    for (int64_t k = 0; k < count; k += run) {
      Vec few[kWide] = {};
      for (int64_t j = k; j < least(k + run, count); ++j) {
        for (int64_t v = 0; v < kWide; ++v) few[v] += at(parts, first + j, column + v * kLanes);
      }
      for (int64_t v = 0; v < kWide; ++v) sums[v] += few[v];
    }
    for (int64_t v = 0; v < kWide; ++v) bias[v] += sums[v];
  }

  // sums [channels, kColumns] += a block of the operand, [channels, kDeep], times the panel.
  void accumulate(const Piece* operand, int64_t channels, int64_t depth, float* sums) const {
    for_tiles<kTall>(channels, [&](int64_t first, int64_t, auto tile) {
      constexpr int64_t R = decltype(tile)::value;
      Vec block[R][kWide];
      set_product(operand + in_operand(kDeep, first, 0), kDeep, panel_, depth, block);
      float* to = sums + first * kColumns;
      for (int64_t i = 0; i < R; ++i) {
        for (int64_t v = 0; v < kWide; ++v, to += kLanes) store(to, load(to) + block[i][v]);
      }
    });
  }

  void write(int64_t block) {
    if (has_state(block)) {
      const int64_t row = kStateOrder[part(block)] * layer_.hidden + unit(block);
      write(state_sums(block), layer_.hidden, unit(block), element(p_.dw_hh[d_]) + row * layer_.hidden);
      write_bias(block, p_.db_hh[d_], row);
    }
    if (has_input(block)) {
      const int64_t row = kInputOrder[part(block) - 1] * layer_.hidden + unit(block);
      write(input_sums(block), layer_.input, unit(block), element(p_.dw_ih[d_]) + row * layer_.input);
      write_bias(block, p_.db_ih[d_], row);
    }
  }

  // The sums as rows of dW, [units, channels].
  void write(const float* sums, int64_t channels, int64_t unit, Element* dw) {
    for (int64_t v = 0; v < kWide; ++v, sums += kLanes, dw += kLanes * channels) {
      const int64_t units = least(kLanes, layer_.hidden - unit - v * kLanes);
      for (int64_t c = 0; c < channels; c += kLanes) {
        IntVec rows[kLanes] = {};
        for (int64_t i = 0; i < least(kLanes, channels - c); ++i) {
          const Vec sum = load(sums + (c + i) * kColumns);
          if constexpr (kPieces > 1) nan_ |= sum != sum;
          std::memcpy(&rows[i], &sum, sizeof(IntVec));
        }
        transpose_words(rows);
        for (int64_t j = 0; j < units; ++j) store(dw + j * channels + c, (Vec)rows[j], channels - c);
      }
    }
  }

  void write_bias(int64_t block, void* db, int64_t row) const {
    if (db == nullptr) return;
    for (int64_t v = 0; v < kWide; ++v) {
      const int64_t count = layer_.hidden - unit(block) - v * kLanes;
      if (count > 0) store(element(db) + row + v * kLanes, bias_[block][v], count);
    }
  }

  const GruLayer& layer_;
  BackwardScratch& scratch_;
  const int64_t d_, first_, blocks_, size_;
  Piece* panel_;
  float* sums_;
  const GruBackward& p_;
  Vec bias_[kTogether][kWide] = {};
  IntVec nan_ = {};
};

#if !defined(CRRL_BF16) && !defined(CRRL_AMX)
// The gradients of a few rows of the weights and biases of one direction, over few frames: products of two vectors.
class FewFramesGradient {
 public:
  FewFramesGradient(const GruBackward& p, const GruPlan& plan, BackwardScratch& scratch, int64_t d)
      : p_(p), layer_(p.layer), scratch_(scratch), d_(d) {
    for (int64_t i = 0; i < plan.frames; ++i) {
      const int64_t b = plan.row_of[i], t = plan.time_of[i];
      states_[i] = state_before(p, plan, d, b, t);
      if (!scratch.repeated) inputs_[i] = frame(layer_.x, b, t);
    }
    for (int64_t b = 0; scratch.repeated && b < layer_.batch; ++b) inputs_[b] = frame(layer_.x, b, 0);
  }

  // Units first.. of all gates.
  void run(int64_t first, int64_t last) {
    const Piece *parts = scratch_.part(d_), *input_parts = scratch_.input_part(d_);
    for (int64_t gate = 0; gate < kGates; ++gate) {
      const int64_t n = layer_.hidden, state = kStateOrder[gate] * n, input = kInputOrder[gate] * n;
      write(parts + gate * scratch_.units, scratch_.frames, states_, n, first, last, element(p_.dw_hh[d_]) + state * n,
            p_.db_hh[d_] == nullptr ? nullptr : element(p_.db_hh[d_]) + state);
      write(input_parts + (gate + 1) * scratch_.units, scratch_.inputs_given, inputs_, layer_.input, first, last,
            element(p_.dw_ih[d_]) + input * layer_.input,
            p_.db_ih[d_] == nullptr ? nullptr : element(p_.db_ih[d_]) + input);
    }
  }

 private:
  static constexpr int64_t kSome = 8;  // rows of dW for which an operand is read once

  // Rows first.. of dw [H, channels]: the products of a gate's gradients with the operands of its frames, and with 1.
  void write(const Piece* parts, int64_t frames, const Element* const* operands, int64_t channels, int64_t first,
             int64_t last, Element* dw, Element* db) const {
    int64_t unit = first;
    for (; unit + kSome <= last; unit += kSome)
      write_rows<kSome>(parts + unit, frames, operands, channels, dw + unit * channels);
    for (; unit < last; ++unit) write_rows<1>(parts + unit, frames, operands, channels, dw + unit * channels);
    for (unit = first; db != nullptr && unit < last; unit += kLanes) {
      Vec sum = {};
      for (int64_t i = 0; i < frames; ++i) sum += load(parts + i * scratch_.part_stride + unit);
      store(db + unit, sum, last - unit);
    }
  }

  template <int64_t N>
  void write_rows(const Piece* parts, int64_t frames, const Element* const* operands, int64_t channels,
                  Element* dw) const {
    for (int64_t c = 0; c < channels; c += kLanes) {
      Vec sums[N] = {};
      for (int64_t i = 0; i < frames; ++i) {
        if (operands[i] == nullptr) continue;
        const Vec value = load(operands[i] + c, channels - c);
        for (int64_t j = 0; j < N; ++j) sums[j] += value * parts[i * scratch_.part_stride + j];
      }
      for (int64_t j = 0; j < N; ++j) store(dw + j * channels + c, sums[j], channels - c);
    }
  }

  const GruBackward& p_;
  const GruLayer& layer_;
  BackwardScratch& scratch_;
  const int64_t d_;
  const Element *states_[kFewFrames + 1], *inputs_[kFewFrames + 1];
};
#else
struct FewFramesGradient {  // of few frames, too, the weights are packed
  FewFramesGradient(const GruBackward&, const GruPlan&, BackwardScratch&, int64_t) {}
  void run(int64_t, int64_t) {}
};
#endif

// dx of the given inputs first..last: the gradients of the gates of all directions times W_ih. Whether none is NaN.
bool input_gradient(const GruBackward& p, const GruPlan& plan, BackwardScratch& scratch, int64_t first, int64_t last) {
  const int64_t depth = kGates * scratch.units, stride = scratch.part_stride;
  IntVec nan = {};
  for (int64_t block = 0; block < scratch.input_blocks; ++block) {
    const int64_t channel = block * kColumns;
    for_tiles<kTall>(last - first, [&](int64_t start, int64_t count, auto tile) {
      constexpr int64_t R = decltype(tile)::value;
      Vec sums[R][kWide];
      for (int64_t d = 0; d < p.layer.directions; ++d) {
        const Piece* parts = scratch.input_part(d) + in_operand(stride, first + start, scratch.units);
        const Piece* panel = scratch.input_panel(d, block);
        if (!scratch.packed) {
          if (d == 0) std::memset(sums, 0, sizeof(sums));
          add_gates(parts, stride, element(p.layer.w_ih[d]), p.layer.hidden, p.layer.input, kInputOrder, channel, sums);
          continue;
        }
        d == 0 ? set_product(parts, stride, panel, depth, sums) : add_product(parts, stride, panel, depth, sums);
      }
      for (int64_t i = 0; i < (kRowStep == 1 ? R : count); ++i) {
        const int64_t number = first + start + i;
        Element* to =
            scratch.repeated ? frame(p.dx, number, 0) : frame(p.dx, plan.row_of[number], plan.time_of[number]);
        for (int64_t v = 0; v < kWide; ++v) {
          const int64_t left = p.layer.input - channel - v * kLanes;
          if (left <= 0) continue;
          store(to + channel + v * kLanes, sums[i][v], left);
          if constexpr (kPieces > 1) nan |= sums[i][v] != sums[i][v];
        }
      }
    });
  }
  return !any(nan);
}

// Calls run(number, place in the scratch, crew) for this thread's chains: those that it is dealt or, in a crew, all of
// them.
template <typename Run>
inline void take_through(const Cut& cut, const Deal& chains, const Run& run) {
  if (cut.crew == 1) return chains.run([&](int64_t number) { run(number, number, Crew()); });
  for (int64_t number = 0; number < cut.chains; ++number) run(number, 0, Crew{thread(), team_size()});
}

// A result that each thread finds for itself.
inline void lower(bool& all, bool found) {
  if (!found) __atomic_store_n(&all, false, __ATOMIC_RELAXED);
}

}  // namespace

GruCrew crew(const GruLayer& layer, const GruPlan& plan, int threads) { return choose_crew(layer, plan, threads, 2); }

void* pack(const GruLayer& layer) {
  ForwardWeights* const weights = new ForwardWeights(layer, true);
  for (int64_t d = 0; d < layer.directions; ++d) {
    for (int64_t unit = 0; unit < weights->units; unit += kUnits) weights->pack(layer, d, unit);
  }
  return weights;
}

void free(void* packed) { delete static_cast<ForwardWeights*>(packed); }

namespace {

bool forward(const GruForward& p, const GruPlan& plan, int threads, ForwardWeights& weights, bool ready) {
  const GruLayer& layer = p.layer;
  const Cut cut(layer, plan, threads, 2);
  ForwardScratch scratch(layer, cut);
  bool served = true;
  const int64_t unit_blocks = ready ? 0 : weights.units / kUnits, used = layer.directions * plan.frames;
  const int64_t unused = p.reserve == nullptr ? 0 : layer.directions * layer.batch * layer.steps - used;
  const Deal chains(cut.chains);
  parallel(static_cast<int>(cut.threads), [&] {
    [[maybe_unused]] const Products products;
    [[maybe_unused]] const FlushDenormals flush;
    for_share(layer.batch, [&](int64_t b) { zero_padding(layer, plan, b, layer.directions * layer.hidden, p.y); });
    for_share(unused, [&](int64_t i) {
      zero(element(p.reserve) + (used + i) * kReserved * weights.units, kReserved * weights.units);
    });
    for_share(layer.directions * unit_blocks,
              [&](int64_t item) { weights.pack(layer, item / unit_blocks, item % unit_blocks * kUnits); });
    meet();
    take_through(cut, chains, [&](int64_t number, int64_t place, const Crew& crew) {
      lower(served, ForwardChain(p, weights, scratch, cut.chain(layer, plan, number), place, crew).run());
    });
  });
  return served;
}

}  // namespace

bool forward(const GruForward& p, const GruPlan& plan, int threads, void* packed) {
  if (packed != nullptr) return forward(p, plan, threads, *static_cast<ForwardWeights*>(packed), true);
  ForwardWeights weights(p.layer, plan.frames > kFewFrames);
  return forward(p, plan, threads, weights, false);
}

namespace {

// Packs weights into panels and transposes operands, in pieces that threads take one by one.
class Preparation {
 public:
  Preparation(const GruBackward& p, const GruPlan& plan, BackwardScratch& scratch)
      : p_(p),
        plan_(plan),
        scratch_(scratch),
        recurrent_(scratch.units / kColumns),
        frames_(blocks(padded(plan.frames), kFrames)),
        per_direction_(recurrent_ + scratch.input_blocks + frames_) {}

  int64_t pieces() const {
    return p_.layer.directions * per_direction_ + blocks(padded(scratch_.inputs_given), kFrames);
  }

  void run(int64_t piece) const {
    const GruLayer& layer = p_.layer;
    const int64_t d = piece / per_direction_;
    if (d >= layer.directions) return inputs((piece - layer.directions * per_direction_) * kFrames);
    piece %= per_direction_;
    if (piece < recurrent_) {
      const int64_t column = piece * kColumns;
      return pack_columns(element(layer.w_hh[d]), layer.hidden, layer.hidden, kStateOrder, column,
                          scratch_.recurrent_panel(d, column));
    }
    piece -= recurrent_;
    if (piece < scratch_.input_blocks) {
      return pack_columns(element(layer.w_ih[d]), layer.hidden, layer.input, kInputOrder, piece * kColumns,
                          scratch_.input_panel(d, piece));
    }
    states(d, (piece - scratch_.input_blocks) * kFrames);
  }

 private:
  void inputs(int64_t first) const {
    const auto source = [&](int64_t number) {
      if (scratch_.repeated) return frame(p_.layer.x, number, 0);
      return frame(p_.layer.x, plan_.row_of[number], plan_.time_of[number]);
    };
    transpose(source, first, scratch_.inputs_given, p_.layer.input, scratch_.input_block(first / kDeep));
  }

  void states(int64_t d, int64_t first) const {
    const auto source = [&](int64_t number) {
      return state_before(p_, plan_, d, plan_.row_of[number], plan_.time_of[number]);
    };
    transpose(source, first, plan_.frames, p_.layer.hidden, scratch_.state_block(d, first / kDeep));
  }

  const GruBackward& p_;
  const GruPlan& plan_;
  BackwardScratch& scratch_;
  const int64_t recurrent_, frames_, per_direction_;
};

}  // namespace

bool backward(const GruBackward& p, const GruPlan& plan, int threads) {
  const GruLayer& layer = p.layer;
  const Cut cut(layer, plan, threads, threads);
  threads = static_cast<int>(cut.threads);
  BackwardScratch scratch(p, plan, cut, threads);
  const Preparation preparation(p, plan, scratch);
  const int64_t columns = kParts * scratch.units / kColumns;
  const int64_t together = least(kTogether, blocks(layer.directions * columns, 2 * threads));
  const int64_t groups = scratch.packed ? blocks(columns, together) : 0;
  const int64_t few_blocks = scratch.packed ? 0 : blocks(layer.hidden, kPad);
  const int64_t frame_blocks = p.dx.data == nullptr ? 0 : blocks(scratch.inputs_given, kFrameBlock);
  const int64_t padded_rows = p.dx.data == nullptr || layer.repeated ? 0 : layer.batch;
  bool served = true;
  const Deal pieces(scratch.packed ? preparation.pieces() : 0), chains(cut.chains),
      gradients(layer.directions * groups), few(layer.directions * few_blocks), inputs(frame_blocks);
  parallel(threads, [&] {
    [[maybe_unused]] const Products products;
    [[maybe_unused]] const FlushDenormals flush;
    for_share(padded_rows, [&](int64_t b) { zero_padding(layer, plan, b, layer.input, p.dx); });
    pieces.run([&](int64_t piece) { preparation.run(piece); });
    meet();
    take_through(cut, chains, [&](int64_t number, int64_t place, const Crew& crew) {
      lower(served, BackwardChain(p, scratch, cut.chain(layer, plan, number), place, crew).run());
    });
    meet();
    gradients.run([&](int64_t item) {
      const int64_t first = item % groups * together;
      const int64_t count = least(together, columns - first);
      lower(served, WeightGradient(p, scratch, item / groups, first, count).run());
    });
    few.run([&](int64_t item) {
      const int64_t first = item % few_blocks * kPad;
      FewFramesGradient(p, plan, scratch, item / few_blocks).run(first, least(layer.hidden, first + kPad));
    });
    inputs.run([&](int64_t item) {
      const int64_t first = item * kFrameBlock;
      lower(served, input_gradient(p, plan, scratch, first, least(scratch.inputs_given, first + kFrameBlock)));
    });
  });
  return served;
}

}  // namespace CRRL_ISA
}  // namespace crrl
