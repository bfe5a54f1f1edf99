// How the blocks of a team exchange their parts of all rows' vectors: every block publishes its units, and reads the
// whole vectors once all have published. Two buffers alternate. A block that publishes round n + 1 has seen round n of
// all others, and these had read round n − 1 before: so no block still reads what round n + 1 overwrites.
#pragma once

#include "gru_params.hpp"
#include "gru_products.hpp"

namespace crrl::gru_cuda {

// Bytes from one row's vector to the next: eight lanes, four in each of two rows, read from all banks.
constexpr int row_bytes(int vector_bytes) { return (vector_bytes + 127) / 128 * 128 + 64; }

// The place of a block in its team, and how long it waits for the others.
struct Member {
  int rank, blocks, padded;  // of `blocks` in the team; units of all blocks, with zeros past the last unit
  int* status;
  uint64_t patience_ns;
  unsigned* arrived;      // of an L2Exchange: the team's counter,
  unsigned char* memory;  // and its buffers
};

// A wait with a time limit: after the patience it reports a timeout, and the caller goes on without the data.
template <class Ready>
CRRL_DEVICE bool wait(const Member& member, const Ready& ready) {
  if (ready()) return true;
  const uint64_t start = gpu::nanoseconds();
  while (!ready()) {
    if (gpu::nanoseconds() - start > member.patience_ns) {
      gpu::report(member.status, 1);
      return false;
    }
  }
  return true;
}

// Through global memory, for any number of blocks that run at once.
template <class Stored, int kGates, int kUnits, int kRows>
class L2Exchange {
 public:
  static constexpr bool kCluster = false;
  static constexpr size_t shared_bytes(int) { return 16; }

  // Bytes of global memory through which a team exchanges its vectors; its counter is elsewhere and starts at 0.
  static constexpr size_t memory_bytes(int padded) {
    return 2 * static_cast<size_t>(kRows) * row_bytes(kGates * padded * static_cast<int>(sizeof(Stored)));
  }

  CRRL_DEVICE L2Exchange(const Member& member, unsigned char* shared)
      : member_(member),
        row_bytes_(row_bytes(kGates * member.padded * static_cast<int>(sizeof(Stored)))),
        alive_(reinterpret_cast<int*>(shared)) {
    if (gpu::thread_index() == 0) *alive_ = 1;
  }

  // Puts the thread's value of a row and unit into the round that begins.
  CRRL_DEVICE void put(int gate, int row, int unit, Stored value) {
    const int k = gate * member_.padded + member_.rank * kUnits + unit;
    *reinterpret_cast<Stored*>(buffer(round_) + row * row_bytes_ + k * static_cast<int>(sizeof(Stored))) = value;
  }

  // Called by all threads, once each has put its values.
  CRRL_DEVICE void publish() {
    gpu::sync_block();
    if (gpu::thread_index() == 0) gpu::add_release(member_.arrived, 1);
    ++round_;
  }

  // Waits for the last round of all blocks; returns whether it has arrived. Called by all threads.
  CRRL_DEVICE bool await() {
    if (gpu::thread_index() == 0 && *alive_) {
      const unsigned all = round_ * static_cast<unsigned>(member_.blocks);
      if (!wait(member_, [&] { return gpu::load_acquire(member_.arrived) >= all; })) *alive_ = 0;
    }
    gpu::sync_block();
    return *alive_ != 0;
  }

  // 16 bytes of a row's vector.
  CRRL_DEVICE Words read(int row, int byte) const { return gpu::load_l2(buffer(round_ - 1) + row * row_bytes_ + byte); }

  CRRL_DEVICE void finish() {}

 private:
  CRRL_DEVICE unsigned char* buffer(unsigned round) const { return member_.memory + round % 2 * (kRows * row_bytes_); }

  const Member member_;
  const int row_bytes_;
  int* alive_;
  unsigned round_ = 0;
};

// Through the shared memory of a cluster's blocks, each of which has its own copy of all vectors: a warp sends its
// results to every block, whose barrier for the round counts the bytes. A warp has its own rows: warp, warp + 8, ...
template <class Stored, int kGates, int kUnits, int kRows>
class ClusterExchange {
  static_assert(kUnits == kWarp, "a warp has one row's units of the block");

 public:
  static constexpr bool kCluster = true;
  static constexpr size_t memory_bytes(int) { return 0; }
  static constexpr size_t shared_bytes(int padded) {
    return 16 + 2 * static_cast<size_t>(kRows) * row_bytes(kGates * padded * static_cast<int>(sizeof(Stored))) + kStage;
  }

  CRRL_DEVICE ClusterExchange(const Member& member, unsigned char* shared)
      : member_(member),
        row_bytes_(row_bytes(kGates * member.padded * static_cast<int>(sizeof(Stored)))),
        barriers_(reinterpret_cast<uint64_t*>(shared)),
        vectors_(shared + 16),
        stage_(vectors_ + 2 * kRows * row_bytes_) {
    if (gpu::thread_index() == 0) {
      for (int i = 0; i < 2; ++i) gpu::barrier_init(barriers_ + i);
      for (int i = 0; i < 2; ++i) expect(i);
    }
    gpu::sync_cluster();
  }

  CRRL_DEVICE void put(int gate, int row, int unit, Stored value) {
    reinterpret_cast<Stored*>(stage_)[(row * kGates + gate) * kUnits + unit] = value;
  }

  // A lane sends the same 16 bytes of a row's gate to every kTo-th block: all that it sends is read before it sends, so
  // that the sends follow each other. A thread that timed out sends no more: what it sent before has long arrived when
  // the block ends.
  CRRL_DEVICE void publish() {
    gpu::sync_warp();
    const int warp = gpu::thread_index() / kWarp, lane = gpu::thread_index() % kWarp, piece = lane % kGatePieces;
    Words values[kWarpRows][kGates];
    CRRL_UNROLL
    for (int i = 0; i < kWarpRows; ++i) {
      CRRL_UNROLL
      for (int gate = 0; gate < kGates; ++gate) {
        const unsigned char* from = stage_ + (warp + i * kWarps) * kRowStage + (gate * kGatePieces + piece) * 16;
        values[i][gate] = *reinterpret_cast<const Words*>(from);
      }
    }
    gpu::sync_warp();  // the stage may be written again
    unsigned char* buffer = vectors_ + round_ % 2 * (kRows * row_bytes_) + piece * 16;
    for (int block = lane / kGatePieces; alive_ && block < member_.blocks; block += kTo) {
      CRRL_UNROLL
      for (int i = 0; i < kWarpRows; ++i) {
        CRRL_UNROLL
        for (int gate = 0; gate < kGates; ++gate) {
          const int first = (gate * member_.padded + member_.rank * kUnits) * static_cast<int>(sizeof(Stored));
          unsigned char* to = buffer + (warp + i * kWarps) * row_bytes_ + first;
          gpu::send(block, to, values[i][gate], barriers_ + round_ % 2);
        }
      }
    }
    ++round_;
  }

  CRRL_DEVICE bool await() {
    const unsigned round = round_ - 1;
    uint64_t* barrier = barriers_ + round % 2;
    alive_ = alive_ && wait(member_, [&] { return gpu::barrier_passed(barrier, round / 2 % 2); });
    // No later phase can end before every warp of this block has been here, because each must still send for it.
    if (alive_ && gpu::thread_index() == 0) expect(round % 2);
    return alive_;
  }

  CRRL_DEVICE Words read(int row, int byte) const {
    return *reinterpret_cast<const Words*>(vectors_ + (round_ - 1) % 2 * (kRows * row_bytes_) + row * row_bytes_ +
                                           byte);
  }

  // No block may exit while others may still send to it.
  CRRL_DEVICE void finish() { gpu::sync_cluster(); }

 private:
  static constexpr int kGatePieces = kUnits * static_cast<int>(sizeof(Stored)) / 16;
  static constexpr int kRowStage = kGates * kGatePieces * 16;
  static constexpr int kTo = kWarp / kGatePieces;  // blocks to which a warp sends at once
  static constexpr int kWarps = kThreads / kWarp, kWarpRows = kRows / kWarps;
  static constexpr size_t kStage = kRows * kRowStage;

  CRRL_DEVICE void expect(int buffer) {
    gpu::barrier_expect(barriers_ + buffer, static_cast<uint32_t>(member_.blocks * kRows * kRowStage));
  }

  const Member member_;
  const int row_bytes_;
  uint64_t* barriers_;
  unsigned char* vectors_;
  unsigned char* stage_;
  unsigned round_ = 0;
  bool alive_ = true;
};

}  // namespace crrl::gru_cuda
