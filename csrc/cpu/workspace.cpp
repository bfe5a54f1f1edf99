#include "workspace.hpp"

#include <algorithm>
#include <new>
#include <vector>

namespace crrl {
namespace {

constexpr std::align_val_t kLine{64};
constexpr int64_t kMostKept = int64_t{64} << 20;

struct Block {
  void* memory;
  int64_t bytes;
};

struct Kept {
  std::vector<Block> blocks;
  int64_t bytes = 0;

  ~Kept() {
    for (const Block& block : blocks) ::operator delete(block.memory, kLine);
  }
};

thread_local Kept kept;

}  // namespace

// The same layer requests the same sizes again, so a block is reused only for its own size.
void* take_workspace(int64_t bytes) {
  const auto same = [bytes](const Block& block) { return block.bytes == bytes; };
  const auto found = std::find_if(kept.blocks.begin(), kept.blocks.end(), same);
  if (found == kept.blocks.end()) return ::operator new(static_cast<size_t>(bytes), kLine);
  void* const memory = found->memory;
  kept.bytes -= bytes;
  kept.blocks.erase(found);
  return memory;
}

void give_workspace(void* memory, int64_t bytes) {
  kept.blocks.push_back({memory, bytes});
  kept.bytes += bytes;
  while (kept.bytes > kMostKept) {  // the ones unused for longest are at the front
    ::operator delete(kept.blocks.front().memory, kLine);
    kept.bytes -= kept.blocks.front().bytes;
    kept.blocks.erase(kept.blocks.begin());
  }
}

}  // namespace crrl
