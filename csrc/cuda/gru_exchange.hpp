// How the blocks of a team exchange numbers after every frame, through global memory (L2Exchange) or through the
// shared memory of a cluster (ClusterExchange). All-gather: every block publishes its units of all rows' vectors, and
// reads the whole vectors. Reduce-scatter: every block publishes its part of each block's sums, and reads its own sums.
//
// Two buffers alternate. A block that publishes round n + 1 has seen round n of all others, and these had read round
// n − 1 before: so no block still reads what round n + 1 overwrites.
#pragma once

#include "gru_params.hpp"
#include "gru_products.hpp"

namespace crrl::gru_cuda {

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

// Rounds that a counter in global memory counts, for any number of blocks that run at once. It starts at 0.
class L2Rounds {
 public:
  static constexpr size_t kSharedBytes = 16;

  CRRL_DEVICE L2Rounds(const Member& member, unsigned char* shared)
      : member_(member), alive_(reinterpret_cast<int*>(shared)) {
    if (gpu::thread_index() == 0) *alive_ = 1;
  }

  // Called by all threads, once each has written what it publishes.
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

  CRRL_DEVICE void finish() {}

  // 0 or 1: of the round that begins, and of the one that was published.
  CRRL_DEVICE unsigned next_buffer() const { return round_ % 2; }
  CRRL_DEVICE unsigned last_buffer() const { return (round_ - 1) % 2; }

 private:
  const Member member_;
  int* alive_;
  unsigned round_ = 0;
};

// Rounds of a cluster: a block's barrier for the round counts the `bytes` that the blocks send to it, itself included.
class ClusterRounds {
 public:
  static constexpr size_t kSharedBytes = 16;

  CRRL_DEVICE ClusterRounds(const Member& member, unsigned char* shared, int bytes)
      : member_(member), barriers_(reinterpret_cast<uint64_t*>(shared)), bytes_(static_cast<uint32_t>(bytes)) {
    if (gpu::thread_index() == 0) {
      for (int i = 0; i < 2; ++i) gpu::barrier_init(barriers_ + i);
      for (int i = 0; i < 2; ++i) gpu::barrier_expect(barriers_ + i, bytes_);
    }
    gpu::sync_cluster();
  }

  // A thread that timed out sends no more: what it sent before has long arrived when the block ends.
  CRRL_DEVICE bool alive() const { return alive_; }

  // Of the round that begins.
  CRRL_DEVICE void send(int block, void* to, const Words& value) const {
    gpu::send(block, to, value, barriers_ + next_buffer());
  }

  // Called by a thread that has sent all of its round.
  CRRL_DEVICE void publish() { ++round_; }

  // As that of L2Rounds. No later round can end before all threads of this block have been here: between two rounds
  // that it sends, the block waits for all of its threads.
  CRRL_DEVICE bool await() {
    const unsigned phase = (round_ - 1) / 2;
    uint64_t* barrier = barriers_ + last_buffer();
    alive_ = alive_ && wait(member_, [&] { return gpu::barrier_passed(barrier, phase % 2); });
    if (alive_ && gpu::thread_index() == 0) gpu::barrier_expect(barrier, bytes_);
    return alive_;
  }

  // No block may exit while others may still send to it.
  CRRL_DEVICE void finish() { gpu::sync_cluster(); }

  CRRL_DEVICE unsigned next_buffer() const { return round_ % 2; }
  CRRL_DEVICE unsigned last_buffer() const { return (round_ - 1) % 2; }

 private:
  const Member member_;
  uint64_t* barriers_;
  const uint32_t bytes_;
  unsigned round_ = 0;
  bool alive_ = true;
};

// The vectors of all rows in memory: [chunk][row][64 bytes], so that the lanes of a product read from all banks.
template <class Stored, int kRows>
struct Vectors {
  static constexpr int kChunk = kNumbers<Stored>;

  static constexpr int bytes(int numbers) { return numbers / kChunk * kRows * kChunkBytes; }

  // The byte of a row's number k, and of a piece (16 bytes) of a chunk.
  CRRL_DEVICE static int place(int row, int k) {
    return (k / kChunk * kRows + row) * kChunkBytes + k % kChunk * static_cast<int>(sizeof(Stored));
  }
  CRRL_DEVICE static int place(int row, int chunk, int piece) {
    return (chunk * kRows + row) * kChunkBytes + piece * 16;
  }
};

// A sum over blocks in their order; get(block): the part of one of them. Eight parts are loaded at a time.
template <class Number, class Get>
CRRL_DEVICE Number sum_over(int blocks, const Get& get) {
  constexpr int kAtOnce = 8;
  Number total = 0;
  CRRL_NO_UNROLL
  for (int first = 0; first < blocks; first += kAtOnce) {
    Number parts[kAtOnce];
    CRRL_UNROLL
    for (int i = 0; i < kAtOnce; ++i) parts[i] = first + i < blocks ? get(first + i) : Number{};
    CRRL_UNROLL
    for (int i = 0; i < kAtOnce; ++i) total += parts[i];
  }
  return total;
}

// What an exchange offers to the recurrence: put or send, then publish; await, then read or sum; finish at the end.

struct L2Exchange {
  static constexpr bool kCluster = false;

  template <class Stored, int kUnits, int kRows>
  class AllGather : public L2Rounds {
    using Of = Vectors<Stored, kRows>;

   public:
    static constexpr size_t shared_bytes(int) { return kSharedBytes; }

    // Bytes of global memory through which a team exchanges its vectors.
    static constexpr size_t memory_bytes(int padded) { return 2 * static_cast<size_t>(Of::bytes(padded)); }

    CRRL_DEVICE AllGather(const Member& member, unsigned char* shared)
        : L2Rounds(member, shared),
          first_(member.rank * kUnits),
          bytes_(Of::bytes(member.padded)),
          memory_(member.memory) {}

    // Puts the thread's value of a row and unit into the round that begins.
    CRRL_DEVICE void put(int row, int unit, Stored value) {
      *reinterpret_cast<Stored*>(memory_ + next_buffer() * bytes_ + Of::place(row, first_ + unit)) = value;
    }

    // A piece of a chunk of a row's vector.
    CRRL_DEVICE Words read(int row, int chunk, int piece) const {
      return gpu::load_l2(memory_ + last_buffer() * bytes_ + Of::place(row, chunk, piece));
    }

   private:
    const int first_, bytes_;
    unsigned char* memory_;
  };

  // Of Number, float in the recurrence, in messages of four. The parts of a block are [its owner][from][message].
  template <class Number, int kUnits, int kRows>
  class ReduceScatter : public L2Rounds {
   public:
    static constexpr size_t shared_bytes(int) { return kSharedBytes; }
    static constexpr size_t memory_bytes(int padded) {
      return 2 * static_cast<size_t>(padded / kUnits) * static_cast<size_t>(padded / kUnits) * kPart;
    }

    CRRL_DEVICE ReduceScatter(const Member& member, unsigned char* shared)
        : L2Rounds(member, shared), rank_(member.rank), blocks_(member.blocks), memory_(member.memory) {}

    // Sends a block four numbers of this block's part of its sums.
    CRRL_DEVICE void send(int block, int message, const Words& value) {
      reinterpret_cast<Words*>(part(next_buffer(), block, rank_))[message] = value;
    }

    // The sum of a number, in the order of the blocks.
    CRRL_DEVICE Number sum(int number) const {
      const unsigned char* mine = part(last_buffer(), rank_, 0) + number * sizeof(Number);
      return sum_over<Number>(blocks_, [&](int block) {
        return gpu::load_l2_number(reinterpret_cast<const Number*>(mine + block * kPart));
      });
    }

   private:
    static constexpr int kPart = kUnits * kRows * static_cast<int>(sizeof(Number));

    CRRL_DEVICE unsigned char* part(unsigned buffer, int owner, int from) const {
      return memory_ + ((static_cast<size_t>(buffer) * blocks_ + owner) * blocks_ + from) * kPart;
    }

    const int rank_, blocks_;
    unsigned char* memory_;
  };
};

struct ClusterExchange {
  static constexpr bool kCluster = true;

  // Every block has its own copy of all vectors: a warp sends its results to every block. A warp has its own rows:
  // warp, warp + 8, ...
  template <class Stored, int kUnits, int kRows>
  class AllGather : public ClusterRounds {
    static_assert(kUnits == kWarp, "a warp has one row's units of the block");
    using Of = Vectors<Stored, kRows>;

   public:
    static constexpr size_t memory_bytes(int) { return 0; }
    static constexpr size_t shared_bytes(int padded) {
      return kSharedBytes + 2 * static_cast<size_t>(Of::bytes(padded)) + kRows * kRowStage;
    }

    CRRL_DEVICE AllGather(const Member& member, unsigned char* shared)
        : ClusterRounds(member, shared, member.blocks * kRows * kRowStage),
          first_(member.rank * kUnits),
          blocks_(member.blocks),
          bytes_(Of::bytes(member.padded)),
          vectors_(shared + kSharedBytes),
          stage_(vectors_ + 2 * bytes_) {}

    CRRL_DEVICE void put(int row, int unit, Stored value) {
      reinterpret_cast<Stored*>(stage_)[row * kUnits + unit] = value;
    }

    // A lane sends the same 16 bytes of its rows to every kTo-th block: all that it sends is read before it sends, so
    // that the sends follow each other.
    CRRL_DEVICE void publish() {
      gpu::sync_warp();
      const int warp = gpu::thread_index() / kWarp, lane = gpu::thread_index() % kWarp, piece = lane % kPieces;
      Words values[kWarpRows];
      CRRL_UNROLL
      for (int i = 0; i < kWarpRows; ++i) {
        const int row = warp + i * kWarps;
        if (row < kRows) values[i] = *reinterpret_cast<const Words*>(stage_ + row * kRowStage + piece * 16);
      }
      gpu::sync_warp();  // the stage may be written again
      unsigned char* buffer = vectors_ + next_buffer() * bytes_;
      const int first = first_ + piece * (16 / static_cast<int>(sizeof(Stored)));
      for (int block = lane / kPieces; alive() && block < blocks_; block += kTo) {
        CRRL_UNROLL
        for (int i = 0; i < kWarpRows; ++i) {
          const int row = warp + i * kWarps;
          if (row < kRows) send(block, buffer + Of::place(row, first), values[i]);
        }
      }
      ClusterRounds::publish();
    }

    CRRL_DEVICE Words read(int row, int chunk, int piece) const {
      return *reinterpret_cast<const Words*>(vectors_ + last_buffer() * bytes_ + Of::place(row, chunk, piece));
    }

   private:
    static constexpr int kRowStage = kUnits * static_cast<int>(sizeof(Stored)), kPieces = kRowStage / 16;
    static constexpr int kTo = kWarp / kPieces;  // blocks to which a warp sends at once
    static constexpr int kWarps = kThreads / kWarp, kWarpRows = (kRows + kWarps - 1) / kWarps;

    const int first_, blocks_, bytes_;
    unsigned char* vectors_;
    unsigned char* stage_;
  };

  // The parts of a block's sums, [from][message], lie in its shared memory.
  template <class Number, int kUnits, int kRows>
  class ReduceScatter : public ClusterRounds {
   public:
    static constexpr size_t memory_bytes(int) { return 0; }
    static constexpr size_t shared_bytes(int padded) {
      return kSharedBytes + 2 * static_cast<size_t>(padded / kUnits) * kPart;
    }

    CRRL_DEVICE ReduceScatter(const Member& member, unsigned char* shared)
        : ClusterRounds(member, shared, member.blocks * kPart),
          rank_(member.rank),
          blocks_(member.blocks),
          parts_(shared + kSharedBytes) {}

    CRRL_DEVICE void send(int block, int message, const Words& value) {
      if (alive()) ClusterRounds::send(block, part(next_buffer(), rank_) + message * 16, value);
    }

    CRRL_DEVICE Number sum(int number) const {
      const unsigned char* mine = part(last_buffer(), 0) + number * sizeof(Number);
      return sum_over<Number>(blocks_,
                              [&](int block) { return *reinterpret_cast<const Number*>(mine + block * kPart); });
    }

   private:
    static constexpr int kPart = kUnits * kRows * static_cast<int>(sizeof(Number));

    CRRL_DEVICE unsigned char* part(unsigned buffer, int from) const {
      return parts_ + (static_cast<int>(buffer) * blocks_ + from) * kPart;
    }

    const int rank_, blocks_;
    unsigned char* parts_;
  };
};

}  // namespace crrl::gru_cuda
