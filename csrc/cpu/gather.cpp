#include "gather.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace crrl {
namespace {

void check_size(const char* name, int64_t size) {
  if (size < 0) {
    throw std::invalid_argument(std::string(name) + " is negative: " + std::to_string(size));
  }
}

void check_row(const RaggedGatherParams& p, int64_t row) {
  const std::string where = "row " + std::to_string(row) + ": ";
  const int64_t clip = p.index[row];
  if (clip < 0 || clip >= p.num_clips) {
    throw std::out_of_range(where + "index " + std::to_string(clip) + " is not one of the " +
                            std::to_string(p.num_clips) + " clips");
  }
  const int64_t start = p.offsets[clip];
  const int64_t end = p.offsets[clip + 1];
  const std::string which = where + "clip " + std::to_string(clip);
  // Both offsets are checked against both bounds, so that end - start below cannot overflow whatever they hold.
  if (std::min(start, end) < 0 || std::max(start, end) > p.num_frames) {
    throw std::invalid_argument(which + " is frames " + std::to_string(start) + " to " + std::to_string(end) +
                                ", but there are " + std::to_string(p.num_frames));
  }
  if (end - start < 1) {
    throw std::invalid_argument(which + " has " + std::to_string(end - start) + " frames; at least 1 is needed");
  }
  if (end - start > p.max_frames) {
    throw std::invalid_argument(which + " has " + std::to_string(end - start) + " frames; max_frames is " +
                                std::to_string(p.max_frames));
  }
}

void check(const RaggedGatherParams& p) {
  check_size("num_frames", p.num_frames);
  check_size("num_clips", p.num_clips);
  check_size("batch", p.batch);
  check_size("max_frames", p.max_frames);
  check_size("channels", p.channels);
  for (int64_t row = 0; row < p.batch; ++row) {
    check_row(p, row);
  }
}

// x and v of one clip, [length, channels], in one pass over its frames.
void gather_with_velocity(const float* __restrict clip, int64_t length, int64_t channels, float* __restrict x,
                          float* __restrict v) {
  const int64_t body = (length - 1) * channels;
  for (int64_t i = 0; i < body; ++i) {
    x[i] = clip[i];
    v[i] = clip[i + channels] - clip[i];
  }
  std::copy_n(clip + body, channels, x + body);
  if (length > 1) {
    std::copy_n(v + body - channels, channels, v + body);
  } else {
    std::fill_n(v, channels, 0.0f);
  }
}

}  // namespace

void ragged_gather(const RaggedGatherParams& p) {
  check(p);
  const int64_t stride = p.max_frames * p.channels;
  for (int64_t row = 0; row < p.batch; ++row) {
    const int64_t start = p.offsets[p.index[row]];
    const int64_t length = p.offsets[p.index[row] + 1] - start;
    const int64_t used = length * p.channels;
    const float* clip = p.frames + start * p.channels;
    float* x = p.x + row * stride;
    p.lengths[row] = length;
    if (p.v == nullptr) {
      std::copy_n(clip, used, x);
    } else {
      float* v = p.v + row * stride;
      gather_with_velocity(clip, length, p.channels, x, v);
      std::fill_n(v + used, stride - used, 0.0f);
    }
    std::fill_n(x + used, stride - used, 0.0f);
  }
}

}  // namespace crrl
