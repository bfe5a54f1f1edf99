#include "workspace.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <new>
#include <vector>

namespace crrl {
namespace {

constexpr int64_t kLine = 64, kHugePage = int64_t{2} << 20;
constexpr int64_t kLarge = int64_t{512} << 10;  // from here on a block has huge pages of its own
constexpr int64_t kMostKept = int64_t{64} << 20;

struct Block {
  void* memory;
  int64_t bytes;
};

constexpr std::align_val_t alignment(int64_t bytes) {
  return std::align_val_t(static_cast<size_t>(bytes < kLarge ? kLine : kHugePage));
}

// Weights that fill most of a core's cache miss less in huge pages, which lie in it without gaps.
void* allocate(int64_t bytes) {
  const auto align = static_cast<int64_t>(alignment(bytes));
  const auto size = static_cast<size_t>((bytes + align - 1) / align * align);
  void* const memory = ::operator new(size, alignment(bytes));
#if defined(MADV_HUGEPAGE)
  if (bytes >= kLarge) madvise(memory, size, MADV_HUGEPAGE);
#endif
  return memory;
}

void release(const Block& block) { ::operator delete(block.memory, alignment(block.bytes)); }

struct Kept {
  std::vector<Block> blocks;
  int64_t bytes = 0;

  ~Kept() {
    for (const Block& block : blocks) release(block);
  }
};

thread_local Kept kept;

}  // namespace

// The same layer requests the same sizes again, so a block is reused only for its own size.
void* take_workspace(int64_t bytes) {
  const auto same = [bytes](const Block& block) { return block.bytes == bytes; };
  const auto found = std::find_if(kept.blocks.begin(), kept.blocks.end(), same);
  if (found == kept.blocks.end()) return allocate(bytes);
  void* const memory = found->memory;
  kept.bytes -= bytes;
  kept.blocks.erase(found);
  return memory;
}

void give_workspace(void* memory, int64_t bytes) {
  kept.blocks.push_back({memory, bytes});
  kept.bytes += bytes;
  while (kept.bytes > kMostKept) {  // the ones unused for longest are at the front
    release(kept.blocks.front());
    kept.bytes -= kept.blocks.front().bytes;
    kept.blocks.erase(kept.blocks.begin());
  }
}

}  // namespace crrl
