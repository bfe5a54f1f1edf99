// Ragged gather: clips of different lengths, stored end to end, into one zero-padded batch.
#pragma once

#include <cstdint>

namespace crrl {

struct RaggedGatherParams {
  const float* frames;     // [num_frames, channels], the clips end to end
  const int64_t* offsets;  // [num_clips + 1], clip i is frames[offsets[i] : offsets[i + 1]]
  const int64_t* index;    // [batch], the clip of each row
  int64_t num_frames;
  int64_t num_clips;
  int64_t batch;
  int64_t max_frames;
  int64_t channels;
  float* x;          // [batch, max_frames, channels], zero beyond the clip
  float* v;          // the same shape, or null: do not compute the velocities
  int64_t* lengths;  // [batch], the frames of each clip
};

// Writes every element of x, v and lengths; with T the frames of the clip (the paper's Eq. 2):
//   v[t] = x[t + 1] - x[t] for t < T - 1,   v[T - 1] = v[T - 2] (0 if T is 1),   v[t] = 0 for t >= T.
// Throws std::out_of_range for an index outside [0, num_clips) and std::invalid_argument for sizes or offsets that do
// not fit; in both cases nothing has been written.
void ragged_gather(const RaggedGatherParams& params);

}  // namespace crrl
