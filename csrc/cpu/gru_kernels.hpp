// The arithmetic of gru.hpp for one instruction set (see simd.hpp for what selects it).
//
// A layer is cut into chains: some rows of one direction, in the order of falling length, which one thread takes
// through time on its own. Rows that have ended drop out, so that ragged rows cost what their frames cost. A row's
// results do not depend on the chain it is in. Units are padded to kPad with zeros, which stay zeros.
#pragma once

#include "denormals.hpp"
#include "gru_plan.hpp"
#include "product.hpp"

namespace crrl {
namespace CRRL_ISA {
namespace {

constexpr int64_t kGates = 3;
constexpr int64_t kWide = 2;  // vectors of columns in a tile of a backward product
constexpr int64_t kColumns = kWide * kLanes;
constexpr int64_t kChunk = 256;      // frames projected at a time: what is made of them stays in the cache
constexpr int64_t kDeep = 256;       // frames of a weight's gradient at a time: their panel stays in the cache
constexpr int64_t kFrameBlock = 64;  // frames whose dx one thread computes at a time

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

// Words of kGroup elements: what lies side by side in a row of W and in a panel.
inline IntVec load_words(const Element* from, int64_t count) {
  IntVec words = {};
  if (count >= kLanes * kGroup) {
    std::memcpy(&words, from, sizeof(words));
  } else {
    std::memcpy(&words, from, count * sizeof(Element));
  }
  return words;
}

// W [3H, depth] for one block of units as a panel of kGates vectors, zero past H and past the depth.
void pack_gates(const Element* w, int64_t hidden, int64_t depth, int64_t unit, Element* panel) {
  constexpr int64_t width = kGates * kLanes * kGroup;  // of one word of depth
  const int64_t words = padded(depth) / kGroup, count = least(kLanes, hidden - unit);
  for (int64_t gate = 0; gate < kGates; ++gate) {
    for (int64_t word = 0; word < words; word += kLanes) {
      const int64_t k = word * kGroup;
      IntVec rows[kLanes] = {};
      for (int64_t lane = 0; lane < count && k < depth; ++lane) {
        rows[lane] = load_words(w + (gate * hidden + unit + lane) * depth + k, depth - k);
      }
      transpose_words(rows);
      Element* to = panel + word * width + gate * kLanes * kGroup;
      for (int64_t i = 0; i < least(kLanes, words - word); ++i) {
        std::memcpy(static_cast<void*>(to + i * width), &rows[i], sizeof(IntVec));
      }
    }
  }
}

// Everything that the forward pass reads of the weights, packed: [direction][block of units].
struct ForwardWeights {
  int64_t input_depth, hidden, units;  // units: padded
  Buffer<Element> input, recurrent;
  Buffer<float> biases;  // [direction][block][r, z, n of the input's side, n of the state's side][lane]

  explicit ForwardWeights(const GruLayer& layer)
      : input_depth(padded(layer.input)),
        hidden(layer.hidden),
        units(padded(layer.hidden)),
        input(layer.directions * units * kGates * input_depth),
        recurrent(layer.directions * units * kGates * units),
        biases(layer.directions * units * (kGates + 1)) {}

  Element* input_panel(int64_t d, int64_t unit) { return input.at((d * units + unit) * kGates * input_depth); }
  Element* recurrent_panel(int64_t d, int64_t unit) { return recurrent.at((d * units + unit) * kGates * units); }
  float* bias(int64_t d, int64_t unit) { return biases.at((d * units + unit) * (kGates + 1)); }

  void pack(const GruLayer& layer, int64_t d, int64_t unit) {
    pack_gates(element(layer.w_ih[d]), hidden, layer.input, unit, input_panel(d, unit));
    pack_gates(element(layer.w_hh[d]), hidden, hidden, unit, recurrent_panel(d, unit));
    float* to = bias(d, unit);
    zero(to, (kGates + 1) * kLanes);
    if (layer.b_ih[d] == nullptr) return;
    const Element *b_ih = element(layer.b_ih[d]), *b_hh = element(layer.b_hh[d]);
    for (int64_t lane = 0; lane < least(kLanes, hidden - unit); ++lane) {
      const int64_t r = unit + lane, z = hidden + r, n = hidden + z;
      to[lane] = to_float(b_ih[r]) + to_float(b_hh[r]);
      to[kLanes + lane] = to_float(b_ih[z]) + to_float(b_hh[z]);
      to[2 * kLanes + lane] = to_float(b_ih[n]);
      to[3 * kLanes + lane] = to_float(b_hh[n]);
    }
  }
};

// Where the results of a row's step go.
struct Target {
  Element* y;
  Element* h_n;      // null but in the row's last step
  Element* reserve;  // null in inference
};

// Memory of all chains. Rows are kRows longer than used: a tile may read past the last one.
struct ForwardScratch {
  int64_t chunk_steps, rows, frames, depth, units;
  Buffer<Element> x;        // [chain][frames of a chunk, padded I]
  Buffer<float> gates;      // [chain][frames of a chunk][block of units][r, z, n][lane], W_ih x and the biases
  Buffer<float> states;     // [chain][2][rows, units], before and after a step
  Buffer<Element> operand;  // the same as elements
  Buffer<Target> targets;   // [chain][rows]

  ForwardScratch(const GruLayer& layer, int64_t chains, int64_t chain_rows)
      : chunk_steps(chain_rows < kChunk ? kChunk / chain_rows : 1),
        rows(chain_rows + kRows),
        frames(chunk_steps * chain_rows + kRows),
        depth(padded(layer.input)),
        units(padded(layer.hidden)),
        x(chains * frames * depth),
        gates(chains * frames * kGates * units),
        states(chains * 2 * rows * units),
        operand(chains * 2 * rows * units),
        targets(chains * rows) {}
};

class ForwardChain {
 public:
  ForwardChain(const GruForward& p, ForwardWeights& weights, ForwardScratch& scratch, const Chain& chain,
               int64_t number)
      : p_(p),
        layer_(p.layer),
        weights_(weights),
        chain_(chain),
        units_(scratch.units),
        chunk_steps_(scratch.chunk_steps),
        x_(scratch.x.at(number * scratch.frames * scratch.depth)),
        gates_(scratch.gates.at(number * scratch.frames * kGates * units_)),
        targets_(scratch.targets.at(number * scratch.rows)) {
    const int64_t size = scratch.rows * units_;
    before_ = scratch.states.at(number * 2 * size), after_ = before_ + size;
    operand_ = scratch.operand.at(number * 2 * size), next_operand_ = operand_ + size;
    zero(before_, 2 * size);
    zero(operand_, 2 * size);
  }

  void run() {
    start();
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
        if (!layer_.repeated) gates += known * kGates * units_;
      }
    }
  }

 private:
  void start() {
    if (layer_.h0 == nullptr) return;
    const int64_t hidden = layer_.hidden;
    for (int64_t i = 0; i < chain_.size(); ++i) {
      const int64_t b = chain_.row(i);
      const Element* h0 = element(layer_.h0) + (chain_.direction * layer_.batch + b) * hidden;
      for (int64_t unit = 0; unit < hidden; ++unit) before_[i * units_ + unit] = to_float(h0[unit]);
      copy(h0, hidden, operand_ + i * units_);
    }
  }

  // W_ih x + b for all frames of steps s..end of the chain, in the order of the steps.
  void project(int64_t s, int64_t end) {
    const int64_t depth = weights_.input_depth;
    int64_t frames = 0, known = chain_.size();
    for (; s < end; ++s) {
      known = chain_.active(s, known);
      for (int64_t i = 0; i < known; ++i, ++frames) {
        Element* to = x_ + frames * depth;
        copy(frame(layer_.x, chain_.row(i), chain_.time(i, s)), layer_.input, to);
        zero(to + layer_.input, depth - layer_.input);
      }
    }
    const int64_t used = round_up(layer_.input, kDepth);
    for (int64_t unit = 0; unit < units_; unit += kLanes) {
      const Element* panel = weights_.input_panel(chain_.direction, unit);
      const float* bias = weights_.bias(chain_.direction, unit);
      for_tiles(frames, [&](int64_t first, int64_t, auto tile) {
        constexpr int64_t R = decltype(tile)::value;
        Vec sums[R][kGates] = {};
        multiply<R, kGates>(x_ + first * depth, depth, panel, used, sums);
        float* to = gates_ + (first * units_ + unit) * kGates;
        for (int64_t i = 0; i < R; ++i, to += kGates * units_) {
          for (int64_t gate = 0; gate < kGates; ++gate) {
            store(to + gate * kLanes, sums[i][gate] + load(bias + gate * kLanes));
          }
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
    const int64_t used = round_up(layer_.hidden, kDepth);
    for (int64_t unit = 0; unit < units_; unit += kLanes) {
      const Element* panel = weights_.recurrent_panel(chain_.direction, unit);
      const Vec bias = load(weights_.bias(chain_.direction, unit) + kGates * kLanes);
      for_tiles(rows, [&](int64_t first, int64_t count, auto tile) {
        constexpr int64_t R = decltype(tile)::value;
        const float* from = gates + (first * units_ + unit) * kGates;
        Vec sums[R][kGates] = {};
        product(operand_ + first * units_, panel, used, sums);
        for (int64_t i = 0; i < (kRowStep == 1 ? R : count); ++i, from += kGates * units_) {
          const Vec r = sums[i][0] + load(from), z = sums[i][1] + load(from + kLanes);
          finish(first + i, unit, r, z, sums[i][2] + bias, load(from + 2 * kLanes));
        }
      });
    }
    swap(before_, after_);
    swap(operand_, next_operand_);
  }

  // Sums begin at zero, and what they are added to comes last: small terms on a large number would round more.
  template <int64_t R>
  void product(const Element* operand, const Element* panel, int64_t depth, Vec (&sums)[R][kGates]) const {
    if constexpr (R == 1) {
      if (layer_.batch == 1) return multiply_alone(operand, panel, depth, sums[0]);
    }
    multiply<R, kGates>(operand, units_, panel, depth, sums);
  }

  // The gates and the new state of one block of units of row i, from what r and z are sigmoids of, and the two sides
  // of n.
  void finish(int64_t i, int64_t unit, Vec r, Vec z, Vec n_h, Vec n_x) {
    sigmoids(r, z);
    const Vec n = tanh(n_x + r * n_h), h = load(before_ + i * units_ + unit);
    const Vec h_next = (h - n) * z + n;
    store(after_ + i * units_ + unit, h_next);
    store(next_operand_ + i * units_ + unit, h_next);
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
  const int64_t units_, chunk_steps_;
  Element* x_;
  float* gates_;
  Target* targets_;
  float *before_, *after_;
  Element *operand_, *next_operand_;
};

// W [3H, columns] for one block of kColumns columns as a panel over the depth of all gates, in the order given.
void pack_columns(const Element* w, int64_t hidden, int64_t columns, const int64_t (&order)[kGates], int64_t column,
                  Element* panel) {
  const int64_t units = padded(hidden), count = least(kColumns, columns - column);
  zero(panel, kGates * units * kColumns);
  for (int64_t place = 0; place < kGates; ++place) {
    for (int64_t unit = 0; unit < hidden; ++unit) {
      const Element* row = w + (order[place] * hidden + unit) * columns + column;
      for (int64_t j = 0; j < count; ++j) panel[in_panel(place * units + unit, j, kColumns)] = row[j];
    }
  }
}

// Gradients of a frame's gates in four parts: n of the state's side, r, z, n of the input's side. The first three are
// the gradient of W_hh h + b_hh, the last three that of W_ih x + b_ih.
constexpr int64_t kParts = 4;
constexpr int64_t kStateOrder[kGates] = {2, 0, 1};
constexpr int64_t kInputOrder[kGates] = {0, 1, 2};

// Memory of the whole backward pass. Rows are kRows longer than used: a tile may read past the last one.
struct BackwardScratch {
  bool repeated;
  int64_t units, frames, inputs_given, deep_blocks, part_stride, input_blocks, input_size, state_size;
  Buffer<Element> parts;      // [direction][frame, part_stride]
  Buffer<Element> row_parts;  // their sums over the frames of each row, likewise, where the input is repeated
  Buffer<float> row_sums;     // [chain][rows, kGates * units], these sums in the making
  Buffer<Element> inputs;     // x transposed, [block of kDeep of the inputs given][I, kDeep]
  Buffer<Element> states;     // per direction the state before each frame, likewise, [block][H, kDeep]
  Buffer<Element> recurrent;  // W_hh in panels
  Buffer<Element> input;      // W_ih in panels
  Buffer<Element> operand;    // [chain][rows, kGates * units], the gradient of W_hh h in one step
  Buffer<float> gradients;    // [chain][rows, units], dh
  Buffer<Element> panels;     // [thread][kDeep, kColumns]
  Buffer<float> sums;         // [thread][channels, kColumns], gradients of weights
  int64_t chain_rows;

  // The parts of two frames are not a power of two apart: they would share few sets of the cache.
  BackwardScratch(const GruBackward& p, const GruPlan& plan, int64_t chains, int64_t rows, int threads)
      : repeated(p.layer.repeated),
        units(padded(p.layer.hidden)),
        frames(plan.frames),
        inputs_given(repeated ? p.layer.batch : plan.frames),
        deep_blocks(blocks(plan.frames, kDeep)),
        part_stride(kParts * units + kPad),
        input_blocks(p.dx.data == nullptr ? 0 : blocks(p.layer.input, kColumns)),
        input_size(p.layer.input + kRows),
        state_size(p.layer.hidden + kRows),
        parts(p.layer.directions * (frames + kRows) * part_stride),
        row_parts(repeated ? p.layer.directions * (inputs_given + kRows) * part_stride : 0),
        row_sums(repeated ? chains * (rows + kRows) * kGates * units : 0),
        inputs(blocks(inputs_given, kDeep) * input_size * kDeep),
        states(p.layer.directions * deep_blocks * state_size * kDeep),
        recurrent(p.layer.directions * units * kGates * units),
        input(p.layer.directions * input_blocks * kColumns * kGates * units),
        operand(chains * (rows + kRows) * kGates * units),
        gradients(chains * (rows + kRows) * units),
        panels(threads * kDeep * kColumns),
        sums(threads * (input_size + state_size) * kColumns),
        chain_rows(rows + kRows) {}

  Element* part(int64_t d, int64_t number) { return parts.at((d * (frames + kRows) + number) * part_stride); }
  // The parts that belong to a given input: those of its frame, or the sums over the row that repeats it.
  Element* input_part(int64_t d, int64_t number) {
    if (!repeated) return part(d, number);
    return row_parts.at((d * (inputs_given + kRows) + number) * part_stride);
  }
  Element* input_block(int64_t block) { return inputs.at(block * input_size * kDeep); }
  Element* state_block(int64_t d, int64_t block) { return states.at((d * deep_blocks + block) * state_size * kDeep); }
  Element* recurrent_panel(int64_t d, int64_t column) { return recurrent.at((d * units + column) * kGates * units); }
  Element* input_panel(int64_t d, int64_t block) {
    return input.at((d * input_blocks + block) * kColumns * kGates * units);
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

// Channels c.. (kLanes of them) of two frames as words, or of one as they are.
inline IntVec load_frames(const Element* const* rows, int64_t c, int64_t channels) {
  IntVec words = {};
  for (int64_t j = 0; j < kGroup; ++j) {
    if (rows[j] == nullptr) continue;
    const Vec values = load(rows[j] + c, channels - c);
    IntVec bits;
    std::memcpy(&bits, &values, sizeof(bits));
    words |= j + 1 < kGroup ? (IntVec)((UnsignedVec)bits >> 16) : bits;
  }
  return words;
}

// Frames first.. (kLanes words of them) as columns of a block, [channels, kDeep]; zero where there is none.
template <typename Source>
void transpose(const Source& source, int64_t first, int64_t frames, int64_t channels, Element* to) {
  constexpr int64_t count = kLanes * kGroup;
  const Element* from[count];
  for (int64_t j = 0; j < count; ++j) from[j] = first + j < frames ? source(first + j) : nullptr;
  for (int64_t c = 0; c < channels; c += kLanes) {
    IntVec rows[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) rows[i] = load_frames(from + i * kGroup, c, channels);
    transpose_words(rows);
    for (int64_t i = 0; i < least(kLanes, channels - c); ++i) {
      std::memcpy(static_cast<void*>(to + (c + i) * kDeep + first % kDeep), &rows[i], sizeof(IntVec));
    }
  }
}

class BackwardChain {
 public:
  BackwardChain(const GruBackward& p, BackwardScratch& scratch, const Chain& chain, int64_t number)
      : p_(p),
        layer_(p.layer),
        scratch_(scratch),
        chain_(chain),
        units_(scratch.units),
        operand_(scratch.operand.at(number * scratch.chain_rows * kGates * units_)),
        dh_(scratch.gradients.at(number * scratch.chain_rows * units_)),
        sums_(scratch.repeated ? scratch.row_sums.at(number * scratch.chain_rows * kGates * units_) : nullptr) {}

  void run() {
    const int64_t hidden = layer_.hidden, rows = chain_.size(), d = chain_.direction;
    zero(dh_, scratch_.chain_rows * units_);
    zero(operand_, scratch_.chain_rows * kGates * units_);
    if (sums_ != nullptr) zero(sums_, rows * kGates * units_);
    for (int64_t i = 0; i < rows; ++i) {
      const Element* from = element(p_.dh_n) + (d * layer_.batch + chain_.row(i)) * hidden;
      for (int64_t unit = 0; unit < hidden; ++unit) dh_[i * units_ + unit] = to_float(from[unit]);
    }
    for (int64_t s = chain_.length(0) - 1; s >= 0; --s) step(s, chain_.active(s, rows));
    for (int64_t i = 0; i < rows; ++i) {
      Element* to = element(p_.dh0) + (d * layer_.batch + chain_.row(i)) * hidden;
      for (int64_t unit = 0; unit < hidden; unit += kLanes) {
        store(to + unit, load(dh_ + i * units_ + unit), hidden - unit);
      }
    }
    if (sums_ != nullptr) write_sums(rows);
  }

 private:
  void write_sums(int64_t rows) {
    for (int64_t i = 0; i < rows; ++i) {
      Element* to = scratch_.input_part(chain_.direction, chain_.row(i)) + units_;
      const float* from = sums_ + i * kGates * units_;
      for (int64_t j = 0; j < kGates * units_; j += kLanes) store(to + j, load(from + j));
    }
  }

  void step(int64_t s, int64_t rows) {
    for (int64_t i = 0; i < rows; ++i) gates(i, source(i, s));
    for (int64_t column = 0; column < units_; column += kColumns) {
      const Element* panel = scratch_.recurrent_panel(chain_.direction, column);
      for_tiles<kTall>(rows, [&](int64_t first, int64_t, auto tile) {
        constexpr int64_t R = decltype(tile)::value;
        float* dh = dh_ + first * units_ + column;
        Vec sums[R][kWide] = {};
        multiply<R, kWide>(operand_ + first * kGates * units_, kGates * units_, panel, kGates * units_, sums);
        for (int64_t i = 0; i < R; ++i) {
          for (int64_t v = 0; v < kWide; ++v) {
            float* to = dh + i * units_ + v * kLanes;
            store(to, load(to) + sums[i][v]);
          }
        }
      });
    }
  }

  // What the gates of one frame are read from and written to.
  struct Source {
    const Element *reserve, *before, *dy;
    Element* parts;
  };

  // Elements from a frame's reserve to that of the frame which the next step takes.
  int64_t to_next_reserve() const { return (runs_back(layer_, chain_.direction) ? 1 : -1) * kReserved * units_; }

  Source source(int64_t i, int64_t s) const {
    const int64_t d = chain_.direction, b = chain_.row(i), t = chain_.time(i, s);
    const int64_t number = chain_.plan->starts[b] + t;
    return {element(p_.reserve) + (d * scratch_.frames + number) * kReserved * units_,
            state_before(p_, *chain_.plan, d, b, t), frame(p_.dy, b, t) + d * layer_.hidden, scratch_.part(d, number)};
  }

  // The gradients of the gates of one frame; dh becomes what reaches the state before by the direct way, dh z.
  void gates(int64_t i, const Source& now) {
    Element* operand = operand_ + i * kGates * units_;
    float* dh = dh_ + i * units_;
    const Element* next = now.reserve + to_next_reserve();  // only fetched: there may be no such frame
    for (int64_t unit = 0; unit < units_; unit += kLanes) {
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
      for (int64_t part = 0; part < kParts; ++part) store(now.parts + part * units_ + unit, made[part]);
      for (int64_t part = 0; part < kGates; ++part) store(operand + part * units_ + unit, made[part]);
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
  const int64_t units_;
  Element* operand_;
  float *dh_, *sums_;
};

// The gradients of the weights and biases of kColumns gate units of one direction: products over all frames, kDeep of
// them at a time, which stay in the first-level cache for all channels.
class WeightGradient {
 public:
  WeightGradient(const GruBackward& p, BackwardScratch& scratch, int64_t direction, int64_t column)
      : layer_(p.layer),
        scratch_(scratch),
        d_(direction),
        column_(column),
        part_(column / scratch.units),
        unit_(column % scratch.units),
        panel_(scratch.panels.at(thread() * kDeep * kColumns)),
        state_sums_(scratch.sums.at(thread() * (scratch.input_size + scratch.state_size) * kColumns)),
        input_sums_(state_sums_ + scratch.state_size * kColumns),
        p_(p) {
    zero(state_sums_, (scratch.input_size + scratch.state_size) * kColumns);
  }

  void run() {
    if (!scratch_.repeated) {
      add_products(scratch_.part(d_, 0), scratch_.frames, has_state(), has_input(), true);
    } else {
      if (has_state()) add_products(scratch_.part(d_, 0), scratch_.frames, true, false, true);
      if (has_input()) add_products(scratch_.input_part(d_, 0), scratch_.inputs_given, false, true, !has_state());
    }
    if (has_state()) {
      const int64_t row = kStateOrder[part_] * layer_.hidden + unit_;
      write(state_sums_, layer_.hidden, element(p_.dw_hh[d_]) + row * layer_.hidden);
      write_bias(p_.db_hh[d_], row);
    }
    if (has_input()) {
      const int64_t row = kInputOrder[part_ - 1] * layer_.hidden + unit_;
      write(input_sums_, layer_.input, element(p_.dw_ih[d_]) + row * layer_.input);
      write_bias(p_.db_ih[d_], row);
    }
  }

 private:
  bool has_state() const { return part_ < kGates; }
  bool has_input() const { return part_ > 0; }

  // The products of `frames` parts with the state before them, with the input, and with 1 for the bias.
  void add_products(const Element* parts, int64_t frames, bool state, bool input, bool bias) {
    for (int64_t first = 0; first < frames; first += kDeep) {
      const Element* from = parts + first * scratch_.part_stride + column_;
      const int64_t block = first / kDeep, count = least(kDeep, frames - first), depth = round_up(count, kDepth);
      pack(from, count);
      if (bias) add_up(from, count);
      if (state) accumulate(scratch_.state_block(d_, block), layer_.hidden, depth, state_sums_);
      if (input) accumulate(scratch_.input_block(block), layer_.input, depth, input_sums_);
    }
  }

  void pack(const Element* from, int64_t count) {
    pack_rows(from, scratch_.part_stride, count, kColumns, panel_);
    for (int64_t k = count; k < round_up(count, kDepth); ++k) {
      for (int64_t j = 0; j < kColumns; ++j) panel_[in_panel(k, j, kColumns)] = Element{};
    }
  }

  void add_up(const Element* from, int64_t count) {
    constexpr int64_t run = 16;
    Vec sums[kWide] = {};
    for (int64_t k = 0; k < count; k += run) {
      Vec few[kWide] = {};
      for (int64_t j = k; j < least(k + run, count); ++j) {
        for (int64_t v = 0; v < kWide; ++v) few[v] += load(from + j * scratch_.part_stride + v * kLanes);
      }
      for (int64_t v = 0; v < kWide; ++v) sums[v] += few[v];
    }
    for (int64_t v = 0; v < kWide; ++v) bias_[v] += sums[v];
  }

  // sums [channels, kColumns] += a block of the operand, [channels, kDeep], times the panel.
  void accumulate(const Element* operand, int64_t channels, int64_t depth, float* sums) const {
    for_tiles<kTall>(channels, [&](int64_t first, int64_t, auto tile) {
      constexpr int64_t R = decltype(tile)::value;
      Vec block[R][kWide] = {};
      multiply<R, kWide>(operand + first * kDeep, kDeep, panel_, depth, block);
      float* to = sums + first * kColumns;
      for (int64_t i = 0; i < R; ++i) {
        for (int64_t v = 0; v < kWide; ++v, to += kLanes) store(to, load(to) + block[i][v]);
      }
    });
  }

  // The sums as rows of dW, [units, channels].
  void write(const float* sums, int64_t channels, Element* dw) const {
    for (int64_t v = 0; v < kWide; ++v, sums += kLanes, dw += kLanes * channels) {
      const int64_t units = least(kLanes, layer_.hidden - unit_ - v * kLanes);
      for (int64_t c = 0; c < channels; c += kLanes) {
        IntVec rows[kLanes] = {};
        for (int64_t i = 0; i < least(kLanes, channels - c); ++i) {
          std::memcpy(&rows[i], sums + (c + i) * kColumns, sizeof(IntVec));
        }
        transpose_words(rows);
        for (int64_t j = 0; j < units; ++j) store(dw + j * channels + c, (Vec)rows[j], channels - c);
      }
    }
  }

  void write_bias(void* db, int64_t row) const {
    if (db == nullptr) return;
    for (int64_t v = 0; v < kWide; ++v) {
      const int64_t count = layer_.hidden - unit_ - v * kLanes;
      if (count > 0) store(element(db) + row + v * kLanes, bias_[v], count);
    }
  }

  const GruLayer& layer_;
  BackwardScratch& scratch_;
  const int64_t d_, column_, part_, unit_;
  Element* panel_;
  float *state_sums_, *input_sums_;
  const GruBackward& p_;
  Vec bias_[kWide] = {};
};

// dx of the given inputs first..last: the gradients of the gates of all directions times W_ih.
void input_gradient(const GruBackward& p, const GruPlan& plan, BackwardScratch& scratch, int64_t first, int64_t last) {
  const int64_t depth = kGates * scratch.units;
  for (int64_t block = 0; block < scratch.input_blocks; ++block) {
    const int64_t channel = block * kColumns;
    for_tiles<kTall>(last - first, [&](int64_t start, int64_t count, auto tile) {
      constexpr int64_t R = decltype(tile)::value;
      Vec sums[R][kWide] = {};
      for (int64_t d = 0; d < p.layer.directions; ++d) {
        multiply<R, kWide>(scratch.input_part(d, first + start) + scratch.units, scratch.part_stride,
                           scratch.input_panel(d, block), depth, sums);
      }
      for (int64_t i = 0; i < (kRowStep == 1 ? R : count); ++i) {
        const int64_t number = first + start + i;
        Element* to =
            scratch.repeated ? frame(p.dx, number, 0) : frame(p.dx, plan.row_of[number], plan.time_of[number]);
        for (int64_t v = 0; v < kWide; ++v) {
          const int64_t left = p.layer.input - channel - v * kLanes;
          if (left > 0) store(to + channel + v * kLanes, sums[i][v], left);
        }
      }
    });
  }
}

// Every direction is cut into chains, at least one a thread; rows with neighbouring lengths go to different chains.
struct Cut {
  int64_t per_direction, chains, rows;

  Cut(const GruLayer& layer, int threads)
      : per_direction(least(layer.batch, blocks(threads, layer.directions))),
        chains(per_direction * layer.directions),
        rows(blocks(layer.batch, per_direction)) {}

  Chain chain(const GruLayer& layer, const GruPlan& plan, int64_t number) const {
    return {&layer, &plan, number / per_direction, number % per_direction, per_direction};
  }
};

}  // namespace

void forward(const GruForward& p, const GruPlan& plan, int threads) {
  const GruLayer& layer = p.layer;
  const Cut cut(layer, threads);
  ForwardWeights weights(layer);
  ForwardScratch scratch(layer, cut.chains, cut.rows);
  const int64_t unit_blocks = weights.units / kLanes, used = layer.directions * plan.frames;
  const int64_t unused = p.reserve == nullptr ? 0 : layer.directions * layer.batch * layer.steps - used;
  const Deal chains(cut.chains);
  parallel(threads, [&] {
    [[maybe_unused]] const Products products;
    [[maybe_unused]] const FlushDenormals flush;
    for_share(layer.batch, [&](int64_t b) { zero_padding(layer, plan, b, layer.directions * layer.hidden, p.y); });
    for_share(unused, [&](int64_t i) {
      zero(element(p.reserve) + (used + i) * kReserved * weights.units, kReserved * weights.units);
    });
    for_share(layer.directions * unit_blocks,
              [&](int64_t item) { weights.pack(layer, item / unit_blocks, item % unit_blocks * kLanes); });
    meet();
    chains.run(
        [&](int64_t number) { ForwardChain(p, weights, scratch, cut.chain(layer, plan, number), number).run(); });
  });
}

namespace {

// Weights in panels and operands transposed, in pieces that threads take one by one.
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
  static constexpr int64_t kFrames = kLanes * kGroup;  // transposed in one piece
  const int64_t recurrent_, frames_, per_direction_;
};

}  // namespace

void backward(const GruBackward& p, const GruPlan& plan, int threads) {
  const GruLayer& layer = p.layer;
  const Cut cut(layer, threads);
  BackwardScratch scratch(p, plan, cut.chains, cut.rows, threads);
  const Preparation preparation(p, plan, scratch);
  const int64_t columns = kParts * scratch.units / kColumns;
  const int64_t frame_blocks = p.dx.data == nullptr ? 0 : blocks(scratch.inputs_given, kFrameBlock);
  const int64_t padded_rows = p.dx.data == nullptr || layer.repeated ? 0 : layer.batch;
  const Deal pieces(preparation.pieces()), chains(cut.chains), gradients(layer.directions * columns),
      inputs(frame_blocks);
  parallel(threads, [&] {
    [[maybe_unused]] const Products products;
    [[maybe_unused]] const FlushDenormals flush;
    for_share(padded_rows, [&](int64_t b) { zero_padding(layer, plan, b, layer.input, p.dx); });
    pieces.run([&](int64_t piece) { preparation.run(piece); });
    meet();
    chains.run([&](int64_t number) { BackwardChain(p, scratch, cut.chain(layer, plan, number), number).run(); });
    meet();
    gradients.run([&](int64_t item) { WeightGradient(p, scratch, item / columns, item % columns * kColumns).run(); });
    inputs.run([&](int64_t item) {
      const int64_t first = item * kFrameBlock;
      input_gradient(p, plan, scratch, first, least(scratch.inputs_given, first + kFrameBlock));
    });
  });
}

}  // namespace CRRL_ISA
}  // namespace crrl
