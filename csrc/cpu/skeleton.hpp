// The .skeleton text of NTU RGB+D: the bodies that a Kinect v2 tracked, frame by frame.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace crrl {

struct SkeletonBody {
  int64_t id;                   // the sensor's tracking number
  std::vector<int64_t> frames;  // [T], ascending: where it was seen
  std::vector<float> joints;    // [T, 25, 3], metres
};

struct Skeleton {
  int64_t frames;                    // with or without anybody
  std::vector<SkeletonBody> bodies;  // in the order in which they appear
};

// The grammar and all messages are those of crrl/data/readers/skeleton.py.
// Throws std::invalid_argument, "line N: what is wrong there".
Skeleton parse_skeleton(std::string_view text);

}  // namespace crrl
