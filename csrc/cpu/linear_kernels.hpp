// The arithmetic of linear.hpp for one instruction set (see simd.hpp for what selects it).
//
// Weights and momentum are kept as panels [feature][class]; the bias is the weight of one more feature that is always
// 1. So both products of a step have vectors along the classes, and the update consumes a tile of the gradient while it
// is in registers: each weight is read twice and written once in a step.
#pragma once

#include "denormals.hpp"
#include "linear.hpp"
#include "product.hpp"

namespace crrl {
namespace CRRL_ISA {
namespace {

class LinearTraining {
 public:
  explicit LinearTraining(const LinearEpoch& p)
      : p_(p),
        panels_(blocks(p.classes, kColumns)),
        depth_(p.features + 1),
        next_(round_up(p.batch, kLanes)),
        weights_(panels_ * depth_ * kColumns),
        momentum_(panels_ * depth_ * kColumns),
        x_(p.batch * depth_),
        transposed_(depth_ * next_),
        errors_(panels_ * p.batch * kColumns) {}

  void run() {
    // No clip has a class that only pads a panel.
    pack(p_.weight, p_.bias, kNone, weights_);
    pack(p_.weight_momentum, p_.bias_momentum, 0, momentum_);
    for (int64_t first = 0; first < p_.count; first += p_.batch) {
      const int64_t clips = least(p_.batch, p_.count - first);
      gather(p_.order + first, clips);
      logits(clips);
      for (int64_t b = 0; b < clips; ++b) softmax(b, p_.labels[p_.order[first + b]], 1.0f / static_cast<float>(clips));
      update(clips);
    }
    unpack(weights_, p_.weight, p_.bias);
    unpack(momentum_, p_.weight_momentum, p_.bias_momentum);
  }

 private:
  static constexpr int64_t kWide = 2;
  static constexpr int64_t kColumns = kWide * kLanes;
  static constexpr float kNone = -3e38f;  // below every logit

  // The place of the weight of a class and a feature.
  int64_t place(int64_t c, int64_t d) const { return (c / kColumns * depth_ + d) * kColumns + c % kColumns; }

  void pack(const float* weight, const float* bias, float no_bias, Buffer<float>& to) {
    zero(to.at(), panels_ * depth_ * kColumns);
    for (int64_t c = 0; c < panels_ * kColumns; ++c) {
      const bool real = c < p_.classes;
      for (int64_t d = 0; real && d < p_.features; ++d) *to.at(place(c, d)) = weight[c * p_.features + d];
      *to.at(place(c, p_.features)) = real ? bias[c] : no_bias;
    }
  }

  void unpack(Buffer<float>& from, float* weight, float* bias) const {
    for (int64_t c = 0; c < p_.classes; ++c) {
      for (int64_t d = 0; d < p_.features; ++d) weight[c * p_.features + d] = *from.at(place(c, d));
      bias[c] = *from.at(place(c, p_.features));
    }
  }

  // The batch as rows [clip][feature] and as columns [feature][clip].
  void gather(const int64_t* order, int64_t clips) {
    for (int64_t b = 0; b < clips; b += kLanes) {
      const int64_t rows = least(kLanes, clips - b);
      for (int64_t d = 0; d < p_.features; d += kLanes) {
        IntVec square[kLanes] = {};
        const int64_t left = p_.features - d;
        for (int64_t i = 0; i < rows; ++i) {
          const Vec part = load(p_.x + order[b + i] * p_.features + d, left);
          store(x_.at((b + i) * depth_ + d), part, left);
          std::memcpy(&square[i], &part, sizeof(part));
        }
        transpose_words(square);
        for (int64_t i = 0; i < least(kLanes, left); ++i) {
          std::memcpy(transposed_.at((d + i) * next_ + b), &square[i], sizeof(square[i]));
        }
      }
    }
    for (int64_t b = 0; b < clips; ++b) {
      *x_.at(b * depth_ + p_.features) = *transposed_.at(p_.features * next_ + b) = 1;
    }
  }

  float* errors(int64_t panel, int64_t b) { return errors_.at((panel * p_.batch + b) * kColumns); }

  void logits(int64_t clips) {
    for (int64_t panel = 0; panel < panels_; ++panel) {
      for_tiles(clips, [&](int64_t first, int64_t rows, auto tile) {
        constexpr int64_t R = decltype(tile)::value;
        Vec sums[R][kWide] = {};
        multiply<R, kWide>(x_.at(first * depth_), depth_, weights_.at(panel * depth_ * kColumns), depth_, sums);
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t v = 0; v < kWide; ++v) store(errors(panel, first + i) + v * kLanes, sums[i][v]);
        }
      });
    }
  }

  // Calls each(place) for every vector of classes of a clip.
  template <typename Each>
  void for_classes(int64_t b, const Each& each) {
    for (int64_t panel = 0; panel < panels_; ++panel) {
      for (int64_t v = 0; v < kWide; ++v) each(errors(panel, b) + v * kLanes);
    }
  }

  // Turns the logits of a clip into the loss's gradient by them: the probabilities, less 1 at the label, times `share`.
  void softmax(int64_t b, int64_t label, float share) {
    Vec largest = splat(kNone), total = {};
    for_classes(b, [&](const float* at) {
      const Vec logit = load(at);
      largest = logit > largest ? logit : largest;
    });
    float most = largest[0];
    for (int64_t lane = 1; lane < kLanes; ++lane) most = largest[lane] > most ? largest[lane] : most;
    for_classes(b, [&](float* at) {
      const Vec weight = exp(load(at) - most, -87.0f, 0.0f);
      total += weight;
      store(at, weight);
    });
    float sum = 0;
    for (int64_t lane = 0; lane < kLanes; ++lane) sum += total[lane];
    const float scale = share / sum;
    for_classes(b, [&](float* at) { store(at, load(at) * scale); });
    for (int64_t c = p_.classes; c < panels_ * kColumns; ++c) errors(panels_ - 1, b)[c % kColumns] = 0;
    errors(label / kColumns, b)[label % kColumns] -= share;
  }

  void update(int64_t clips) {
    const float rate = static_cast<float>(p_.rate), keep = static_cast<float>(p_.momentum);
    for (int64_t panel = 0; panel < panels_; ++panel) {
      for_tiles<kTall>(depth_, [&](int64_t first, int64_t rows, auto tile) {
        constexpr int64_t R = decltype(tile)::value;
        Vec gradient[R][kWide] = {};
        multiply<R, kWide>(transposed_.at(first * next_), next_, errors(panel, 0), clips, gradient);
        const int64_t at = (panel * depth_ + first) * kColumns;
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t v = 0; v < kWide; ++v) {
            float* weight = weights_.at(at + i * kColumns + v * kLanes);
            float* momentum = momentum_.at(at + i * kColumns + v * kLanes);
            const Vec moved = keep * load(momentum) + gradient[i][v];
            store(momentum, moved);
            store(weight, load(weight) - rate * (gradient[i][v] + keep * moved));
          }
        }
      });
    }
  }

  const LinearEpoch& p_;
  const int64_t panels_, depth_, next_;
  Buffer<float> weights_, momentum_;  // [panel][D + 1][kColumns]
  Buffer<float> x_, transposed_;      // [B][D + 1], [D + 1][next_]
  Buffer<float> errors_;              // [panel][B][kColumns]: logits, then the loss's gradient by them
};

}  // namespace

void linear_epoch(const LinearEpoch& p) {
  const FlushDenormals flush;
  LinearTraining(p).run();
}

}  // namespace CRRL_ISA
}  // namespace crrl
