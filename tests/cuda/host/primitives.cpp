#undef _FORTIFY_SOURCE  // its longjmp refuses to jump to another stack

#include "primitives.hpp"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <mutex>
#include <vector>

#include "fiber.hpp"

namespace crrl::gpu {
namespace {

constexpr int kLanes = 32;
constexpr uint32_t kAll = 0xffffffffu;

// What the lanes of a warp, or all threads of a block or a cluster, come together for.
enum class Meeting : uint8_t { kSyncWarp, kShuffle, kTF32, kF16, kBF16, kSyncBlock, kSyncCluster };
const char* name(Meeting meeting) {
  constexpr const char* kNames[] = {"sync_warp", "shuffle_xor", "mma_tf32",    "mma_f16",
                                    "mma_bf16",  "sync_block",  "sync_cluster"};
  return kNames[static_cast<int>(meeting)];
}

struct Block;
struct Warp;

struct Thread {
  Fiber fiber;
  Warp* warp = nullptr;
  int lane = 0;
  const void* waits_for = nullptr;    // while it polls
  const unsigned* counter = nullptr;  // that it looked at last,
  unsigned count = 0;                 // what it saw,
  uint64_t time = 0;                  // and what the time was when it asked last
  uint32_t bit() const { return 1u << lane; }
};

struct Warp {
  Block* block;
  int index;
  uint32_t ready, met, returned;  // lanes: can go on; wait in `meeting`; are done
  Meeting meeting;
  Thread* threads[kLanes];
  // What the lanes bring to a meeting, and take from it.
  float c[kLanes][4], value[kLanes], shuffled[kLanes];
  uint32_t a[kLanes][4], b[kLanes][2];
  int from[kLanes];
};

struct Cluster {
  int first, blocks, met;
};

struct Block {
  int index, rank;
  Cluster* cluster;
  uint32_t ready;  // warps that have a lane that can go on
  int met, running;
  int arriving;  // sends under way to it
  std::vector<Warp> warps;
  std::vector<unsigned char> memory;
  unsigned char* shared;
};

// An mbarrier, in the 64 bits of one.
struct Barrier {
  static constexpr uint16_t kMagic = 0x6db2;
  int32_t bytes;  // announced, less those that came: what comes early makes it negative
  uint16_t magic;
  uint8_t phase, expects;  // expects: the arrival of this phase is still to come
};
static_assert(sizeof(Barrier) == sizeof(uint64_t), "");
constexpr int32_t kMostBytes = (1 << 20) - 1;

struct Sent {
  Block* to;
  size_t offset, barrier;
  Words value;
};

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  uint32_t below(size_t n) { return static_cast<uint32_t>((next() >> 32) * n >> 32); }
  bool one_in(uint32_t n) { return below(n) == 0; }
  uint32_t bit_of(uint32_t mask) {  // one that is set
    const uint32_t turn = below(32), turned = mask >> turn | mask << (32 - turn) % 32;
    return (static_cast<uint32_t>(__builtin_ctz(turned)) + turn) % 32;
  }

 private:
  uint64_t state_;
};

// How the next thread is chosen, for a while. Some of these orders are what no fair draw would come up with.
struct Mood {
  uint64_t until = 0;  // this turn
  int burst = 1;       // turns in a row for a warp
  enum { kRandom, kLowest, kHighest } lane = kRandom;
  Block* favourite = nullptr;  // goes before the others
  Block* starved = nullptr;    // goes after the others
  uint32_t starved_warps = 0;  // so do these of all blocks
  int hold = 0;                // sends arrive one in so many turns; 0: when nobody can go on
};

// --- The machine: who exists, who goes next, what is under way -----------------------------------------------------

class Machine {
 public:
  const char* launch(const std::function<void()>& thread, const Launch& how);

  Random random{0};
  Device facts{9, 0, 132, 232448, true};
  std::string error;
  uint64_t turns = 0;
  int64_t lost_send = 0, lost_release = 0;

  // For the thread that runs.
  Thread& me() { return *me_; }
  Warp& warp() { return *me_->warp; }
  Block& block() { return *me_->warp->block; }
  Block& block_of_cluster(int rank) { return blocks_[static_cast<size_t>(block().cluster->first - base_ + rank)]; }
  uint64_t time() const { return time_; }
  size_t shared() const { return how_->shared; }
  bool last_of_warp(Meeting what);  // whether all other lanes are there; else it is to sleep
  void release_warp();
  void meet_blocks(Meeting what, int& met, int first, int count);  // returns when all their threads are there
  void sleep();                                                    // until somebody makes it ready
  void sleep_until(const void* what);                              // has changed, or time has passed
  void wake(const void* what);
  void rest();      // lets others go on, if it is so drawn
  void progress();  // something happened that others may have waited for
  void send(const Sent& sent);
  [[noreturn]] void fail(const std::string& what);

 private:
  std::string refuse(const Launch& how) const;
  void run_team(const Launch& how, int first, int count);
  void set_up(const Launch& how, int first, int count);
  void set_up_warp(Warp& warp, size_t thread);
  void check_canaries();
  static void run_thread();
  void returned();

  void go_on();
  Thread* choose();
  uint32_t preferred(const Block& block) const {
    return &block == mood_.starved ? 0 : block.ready & ~mood_.starved_warps;
  }
  Warp* choose_warp();
  uint32_t choose_lane(uint32_t ready);
  void change_mood();
  void ready(Block& block, Warp& warp, uint32_t lanes);
  void park(Thread& thread);
  void deliver(size_t which);
  void let_time_pass();
  std::string deadlock() const;

  static constexpr size_t kPad = 4096;
  static constexpr unsigned char kCanary = 0xa5;
  static constexpr int kMostStalls = 4096;

  const Launch* how_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  int base_ = 0;  // the team's first block
  std::vector<Block> blocks_;
  std::vector<Cluster> clusters_;
  std::vector<std::unique_ptr<Thread>> threads_;  // kept: stacks are dear
  std::vector<Block*> ready_;                     // blocks that have a warp that can go on
  std::vector<Thread*> pollers_;
  std::vector<Sent> sent_;
  int running_ = 0;
  Fiber host_;
  Thread* me_ = nullptr;  // null: the host
  Mood mood_;
  Warp* last_ = nullptr;
  int burst_ = 0;
  uint64_t time_ = 0, tick_ = 0;
  int stalls_ = 0;
};

Machine machine;
std::mutex one_launch;

std::string Machine::refuse(const Launch& how) const {
  if (how.blocks < 1) return "invalid launch: no blocks";
  if (how.threads < 1 || how.threads > 1024) return "invalid launch: a block has 1 to 1024 threads";
  if (how.threads % kLanes) return "invalid launch: here, blocks are whole warps";
  if (how.shared > facts.shared) return "invalid launch: more shared memory than a block can have";
  if (how.cluster < 1 || how.cluster > 16) return "invalid launch: a cluster has 1 to 16 blocks";
  if (how.cluster > 1 && facts.major < 9) return "invalid launch: this device has no clusters";
  if (how.blocks % how.cluster) return "invalid launch: the blocks are not a multiple of a cluster's";
  if (how.cooperative && !facts.cooperative) return "invalid launch: this device has no cooperative launches";
  if (how.cooperative && how.blocks > facts.multiprocessors) return "invalid launch: too many blocks to run at once";
  return "";
}

const char* Machine::launch(const std::function<void()>& thread, const Launch& how) {
  error = refuse(how);
  turns = 0;
  if (!error.empty()) return error.c_str();
  body_ = &thread;
  how_ = &how;
  time_ = 1000000000;
  mood_ = {};
  const int team = how.cooperative ? how.blocks : how.cluster;
  const int teams = how.blocks / team, start = static_cast<int>(random.below(static_cast<size_t>(teams)));
  for (int i = 0; i < teams && error.empty(); ++i) run_team(how, (start + i) % teams * team, team);
  return error.empty() ? nullptr : error.c_str();
}

void Machine::run_team(const Launch& how, int first, int count) {
  set_up(how, first, count);
  go_on();
  if (error.empty()) check_canaries();
  if (error.empty()) return;
  for (auto& thread : threads_) thread->fiber.start(run_thread);  // where they stopped, none can go on
}

void Machine::set_up(const Launch& how, int first, int count) {
  const size_t warps = static_cast<size_t>(how.threads / kLanes), blocks = static_cast<size_t>(count);
  base_ = first;
  while (threads_.size() < blocks * warps * kLanes) {
    threads_.push_back(std::make_unique<Thread>());
    threads_.back()->fiber.start(run_thread);
  }
  ready_.clear(), pollers_.clear(), sent_.clear();
  clusters_.clear();
  for (int i = 0; i < count; i += how.cluster) clusters_.push_back({first + i, how.cluster, 0});
  blocks_.resize(blocks);
  for (size_t i = 0; i < blocks; ++i) {
    Block& block = blocks_[i];
    block.index = first + static_cast<int>(i);
    block.cluster = &clusters_[i / static_cast<size_t>(how.cluster)];
    block.rank = block.index - block.cluster->first;
    block.ready = 0, block.met = 0, block.arriving = 0;
    block.running = how.threads;
    block.memory.assign(how.shared + 2 * kPad, kCanary);
    block.shared = block.memory.data() + kPad;
    std::fill_n(block.shared, how.shared, static_cast<unsigned char>(0xff));
    block.warps.resize(warps);
    for (size_t w = 0; w < warps; ++w) {
      block.warps[w].block = &block;
      block.warps[w].index = static_cast<int>(w);
      set_up_warp(block.warps[w], (i * warps + w) * kLanes);
    }
  }
  running_ = count * how.threads;
  last_ = nullptr, burst_ = 0;
  mood_.favourite = mood_.starved = nullptr;
  progress();
}

void Machine::set_up_warp(Warp& warp, size_t thread) {
  warp.ready = warp.met = warp.returned = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    Thread& each = *threads_[thread + static_cast<size_t>(lane)];
    each.warp = &warp;
    each.lane = lane;
    each.waits_for = nullptr;
    each.counter = nullptr;
    each.time = 0;
    warp.threads[lane] = &each;
  }
  ready(*warp.block, warp, kAll);
}

void Machine::check_canaries() {
  for (const Block& block : blocks_) {
    const auto whole = [](const unsigned char* from) {
      return std::all_of(from, from + kPad, [](unsigned char x) { return x == kCanary; });
    };
    if (whole(block.memory.data()) && whole(block.shared + how_->shared)) continue;
    error = "block " + std::to_string(block.index) + " wrote outside its shared memory";
    return;
  }
}

void Machine::run_thread() {
  for (;;) {
    (*machine.body_)();
    machine.returned();
  }
}

void Machine::returned() {
  Warp& mine = warp();
  Block& home = block();
  if (mine.met) fail(std::string("returns while lanes of its warp wait at ") + name(mine.meeting));
  mine.returned |= me_->bit();
  if (--home.running == 0 && home.arriving) fail("ends its block while sends to it are under way");
  --running_;
  progress();
  sleep();  // until it is a thread of another block
}

void Machine::fail(const std::string& what) {
  if (error.empty()) {
    const int thread = warp().index * kLanes + me_->lane;
    error = "block " + std::to_string(block().index) + ", thread " + std::to_string(thread) + ": " + what;
  }
  Thread* const before = me_;
  me_ = nullptr;
  before->fiber.switch_to(host_);
  __builtin_unreachable();
}

// --- Who goes next -------------------------------------------------------------------------------------------------

void Machine::go_on() {
  Thread* const before = me_;
  me_ = choose();
  if (me_ == before) return;
  (before ? before->fiber : host_).switch_to(me_ ? me_->fiber : host_);
}

Thread* Machine::choose() {
  for (;;) {
    if (++turns >= mood_.until) change_mood();
    if (!error.empty()) return nullptr;
    if (!sent_.empty() && mood_.hold && random.one_in(static_cast<uint32_t>(mood_.hold))) {
      for (uint32_t count = 1 + random.below(32); count > 0 && !sent_.empty(); --count) {
        deliver(random.below(sent_.size()));
      }
    }
    if (Warp* const warp = choose_warp()) return warp->threads[choose_lane(warp->ready)];
    if (!sent_.empty()) {
      deliver(random.below(sent_.size()));
    } else if (!pollers_.empty()) {
      let_time_pass();
    } else {
      if (running_ > 0) error = deadlock();
      return nullptr;
    }
  }
}

Warp* Machine::choose_warp() {
  if (last_ && last_->ready && burst_ > 0) {
    --burst_;
    return last_;
  }
  if (ready_.empty()) return nullptr;
  Block* block = mood_.favourite && mood_.favourite->ready ? mood_.favourite : ready_[random.below(ready_.size())];
  uint32_t warps = preferred(*block);
  for (int draw = 0; draw < 4 && !warps; ++draw) {
    block = ready_[random.below(ready_.size())];
    warps = preferred(*block);
  }
  last_ = &block->warps[random.bit_of(warps ? warps : block->ready)];
  burst_ = mood_.burst;
  return last_;
}

uint32_t Machine::choose_lane(uint32_t ready) {
  if (mood_.lane == Mood::kLowest) return static_cast<uint32_t>(__builtin_ctz(ready));
  if (mood_.lane == Mood::kHighest) return static_cast<uint32_t>(31 - __builtin_clz(ready));
  return random.bit_of(ready);
}

void Machine::change_mood() {
  constexpr int kBursts[] = {1, 16, 256, 4096}, kHolds[] = {0, 0, 1, 8, 64, 512};
  mood_ = {};
  mood_.until = turns + (uint64_t{64} << random.below(12));
  mood_.burst = kBursts[random.below(4)];
  mood_.lane = static_cast<decltype(mood_.lane)>(random.below(3));
  mood_.hold = kHolds[random.below(6)];
  if (random.one_in(3)) mood_.starved_warps = 1u << random.below(blocks_[0].warps.size());
  if (random.one_in(3)) mood_.favourite = &blocks_[random.below(blocks_.size())];
  if (random.one_in(3)) mood_.starved = &blocks_[random.below(blocks_.size())];
  burst_ = 0;
}

void Machine::ready(Block& block, Warp& warp, uint32_t lanes) {
  if (!block.ready) ready_.push_back(&block);
  block.ready |= 1u << warp.index;
  warp.ready |= lanes;
}

void Machine::park(Thread& thread) {
  Warp& warp = *thread.warp;
  Block& block = *warp.block;
  warp.ready &= ~thread.bit();
  if (warp.ready) return;
  block.ready &= ~(1u << warp.index);
  if (block.ready) return;
  *std::find(ready_.begin(), ready_.end(), &block) = ready_.back();
  ready_.pop_back();
}

void Machine::rest() {
  if (!random.one_in(32)) return;
  burst_ = 0;
  go_on();
}

void Machine::sleep() {
  park(*me_);
  go_on();
}

void Machine::sleep_until(const void* what) {
  me_->waits_for = what;
  pollers_.push_back(me_);
  sleep();
}

void Machine::progress() { tick_ = 100, stalls_ = 0; }

void Machine::wake(const void* what) {
  for (size_t i = 0; i < pollers_.size();) {
    Thread& thread = *pollers_[i];
    if (thread.waits_for != what) {
      ++i;
      continue;
    }
    ready(*thread.warp->block, *thread.warp, thread.bit());
    pollers_[i] = pollers_.back();
    pollers_.pop_back();
  }
}

// Doubling: whatever the bounds of the waits, they are over after a few rounds.
void Machine::let_time_pass() {
  time_ += tick_;
  tick_ = std::min<uint64_t>(tick_ * 2, uint64_t{1} << 50);
  if (++stalls_ > kMostStalls) error = "all threads that are left wait for each other, without a bound: " + deadlock();
  for (Thread* thread : pollers_) ready(*thread->warp->block, *thread->warp, thread->bit());
  pollers_.clear();
}

std::string Machine::deadlock() const {
  std::string where = "deadlock";
  int told = 0;
  for (const Block& block : blocks_) {
    for (const Warp& warp : block.warps) {
      if (!warp.met || ++told > 4) continue;
      char text[96];
      std::snprintf(text, sizeof text, "; block %d, warp %d: lanes %08x wait at %s", block.index, warp.index,
                    static_cast<unsigned>(warp.met), name(warp.meeting));
      where += text;
    }
  }
  return where;
}

// --- Meetings ------------------------------------------------------------------------------------------------------

bool Machine::last_of_warp(Meeting what) {
  Warp& mine = warp();
  if (mine.returned) fail(std::string("waits at ") + name(what) + ", but lanes of its warp have returned");
  if (mine.met && mine.meeting != what) {
    fail(std::string("divergence: comes to ") + name(what) + ", but lanes of its warp wait at " + name(mine.meeting));
  }
  mine.meeting = what;
  mine.met |= me_->bit();
  me_->counter = nullptr;
  me_->time = 0;
  return mine.met == kAll;
}

void Machine::release_warp() {
  warp().met = 0;
  ready(block(), warp(), kAll);
}

void Machine::meet_blocks(Meeting what, int& met, int first, int count) {
  last_of_warp(what);
  if (++met < count * how_->threads) return sleep();
  met = 0;
  for (int i = first; i < first + count; ++i) {
    Block& block = blocks_[static_cast<size_t>(i - base_)];
    for (Warp& warp : block.warps) {
      warp.met = 0;
      ready(block, warp, kAll);
    }
  }
  burst_ = 0;
  go_on();
}

// --- What is sent, and the barriers that count it ------------------------------------------------------------------

bool inside(size_t offset, size_t bytes, size_t align) {
  return offset % align == 0 && offset <= machine.shared() && bytes <= machine.shared() - offset;
}

// Of a pointer into the running thread's own shared memory.
size_t offset_of(const void* pointer, size_t bytes, const char* what) {
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(pointer) - machine.block().shared);
  if (!inside(offset, bytes, bytes))
    machine.fail(std::string(what) + " outside the block's shared memory, or not aligned");
  return offset;
}

Barrier load_barrier(const Block& block, size_t offset) {
  Barrier barrier;
  std::memcpy(&barrier, block.shared + offset, sizeof barrier);
  return barrier;
}

// Begins the next phase if this one is complete.
void store_barrier(Block& block, size_t offset, Barrier barrier) {
  const bool complete = !barrier.expects && barrier.bytes == 0;
  if (complete) barrier.phase ^= 1, barrier.expects = 1;
  std::memcpy(block.shared + offset, &barrier, sizeof barrier);
  if (complete) machine.wake(block.shared + offset);
}

Barrier own_barrier(size_t offset) {
  const Barrier barrier = load_barrier(machine.block(), offset);
  if (barrier.magic != Barrier::kMagic) machine.fail("uses a barrier that is not initialised");
  return barrier;
}

void need_clusters() {
  if (machine.facts.major < 9) machine.fail("this device has no clusters");
}

void Machine::send(const Sent& sent) {
  if (lost_send > 0 && --lost_send == 0) return;
  if (sent.to->running == 0) fail("sends to a block that has ended");
  if (load_barrier(*sent.to, sent.barrier).magic != Barrier::kMagic) fail("sends to a barrier that is not initialised");
  ++sent.to->arriving;
  sent_.push_back(sent);
}

void Machine::deliver(size_t which) {
  const Sent sent = sent_[which];
  sent_[which] = sent_.back();
  sent_.pop_back();
  --sent.to->arriving;
  std::memcpy(sent.to->shared + sent.offset, &sent.value, sizeof sent.value);
  Barrier barrier = load_barrier(*sent.to, sent.barrier);
  barrier.bytes -= static_cast<int32_t>(sizeof sent.value);
  if (barrier.magic != Barrier::kMagic || barrier.bytes < -kMostBytes) {
    error = "block " + std::to_string(sent.to->index) + ": a barrier was overwritten, or counts more bytes than it can";
    return;
  }
  store_barrier(*sent.to, sent.barrier, barrier);
  progress();
}

// --- Matrix products -----------------------------------------------------------------------------------------------

// a [16, k], b [k, 8], c [16, 8] as the fragments of 32 lanes hold them; k is 8 for TF32, else 16.
template <int k>
void multiply(const float (&a)[16][k], const float (&b)[k][8], Warp& warp) {
  for (int row = 0; row < 16; ++row) {
    float sum[8] = {};
    for (int i = 0; i < k; ++i) {
      for (int column = 0; column < 8; ++column) sum[column] += a[row][i] * b[i][column];
    }
    for (int column = 0; column < 8; ++column) {
      warp.c[row % 8 * 4 + column / 2][row / 8 * 2 + column % 2] += sum[column];
    }
  }
}

// The units of a product drop the bits that TF32 does not have.
float from_tf32(uint32_t bits) { return bits_float(bits & ~0x1fffu); }

void multiply_tf32(Warp& warp) {
  float a[16][8], b[8][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4, place = lane % 4;
    for (int i = 0; i < 4; ++i) a[group + i % 2 * 8][place + i / 2 * 4] = from_tf32(warp.a[lane][i]);
    for (int i = 0; i < 2; ++i) b[place + i * 4][group] = from_tf32(warp.b[lane][i]);
  }
  multiply(a, b, warp);
}

template <class T>
void multiply_16_bits(Warp& warp) {
  float a[16][16], b[16][8];
  const auto part = [](uint32_t pair, int i) { return to_float(T{static_cast<uint16_t>(pair >> i * 16)}); };
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4, place = lane % 4 * 2;
    for (int i = 0; i < 8; ++i) {
      a[group + i / 2 % 2 * 8][place + i % 2 + i / 4 * 8] = part(warp.a[lane][i / 2], i % 2);
    }
    for (int i = 0; i < 4; ++i) b[place + i % 2 + i / 2 * 8][group] = part(warp.b[lane][i / 2], i % 2);
  }
  multiply(a, b, warp);
}

void multiply(Meeting what, Warp& warp) {
  if (what == Meeting::kTF32) multiply_tf32(warp);
  if (what == Meeting::kF16) multiply_16_bits<Half>(warp);
  if (what == Meeting::kBF16) multiply_16_bits<BFloat16>(warp);
}

// The lane that comes last does the work of all.
void mma(Meeting what, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  Warp& warp = machine.warp();
  const int lane = machine.me().lane;
  std::copy_n(a, 4, warp.a[lane]);
  std::copy_n(c, 4, warp.c[lane]);
  warp.b[lane][0] = b0;
  warp.b[lane][1] = b1;
  if (machine.last_of_warp(what)) {
    multiply(what, warp);
    machine.release_warp();
  } else {
    machine.sleep();
  }
  std::copy_n(warp.c[lane], 4, c);
}

}  // namespace

// --- The primitives ------------------------------------------------------------------------------------------------

int thread_index() { return machine.warp().index * kLanes + machine.me().lane; }
int block_index() { return machine.block().index; }
unsigned char* shared_memory() { return machine.block().shared; }

void sync_block() {
  Block& block = machine.block();
  machine.meet_blocks(Meeting::kSyncBlock, block.met, block.index, 1);
}

void sync_warp() {
  if (!machine.last_of_warp(Meeting::kSyncWarp)) return machine.sleep();
  machine.release_warp();
}

float shuffle_xor(float x, int mask) {
  Warp& warp = machine.warp();
  const int lane = machine.me().lane;
  warp.value[lane] = x;
  warp.from[lane] = lane ^ mask;
  if (mask < 0 || mask >= kLanes) machine.fail("shuffle_xor with a lane that there is not");
  if (machine.last_of_warp(Meeting::kShuffle)) {
    for (int i = 0; i < kLanes; ++i) warp.shuffled[i] = warp.value[warp.from[i]];
    machine.release_warp();
  } else {
    machine.sleep();
  }
  return warp.shuffled[lane];
}

void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma(Meeting::kTF32, c, a, b0, b1); }
void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma(Meeting::kF16, c, a, b0, b1); }
void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma(Meeting::kBF16, c, a, b0, b1); }

void rest() { machine.rest(); }

Words load_l2(const void* address) {
  rest();
  if (reinterpret_cast<uintptr_t>(address) % sizeof(Words)) machine.fail("load_l2 of an address that is not aligned");
  Words words;
  std::memcpy(&words, address, sizeof words);
  return words;
}

void add_release(unsigned* counter, unsigned value) {
  machine.rest();
  machine.me().counter = nullptr;
  if (machine.lost_release > 0 && --machine.lost_release == 0) return;
  *counter += value;
  machine.progress();
  machine.wake(counter);
}

// Who looks again at what has not changed sleeps until it does.
unsigned load_acquire(const unsigned* counter) {
  machine.rest();
  Thread& me = machine.me();
  if (me.counter == counter && me.count == *counter) machine.sleep_until(counter);
  me.time = 0;
  me.counter = counter;
  return me.count = *counter;
}

void report(int* status, int code) { *status = code; }

uint64_t nanoseconds() {
  Thread& me = machine.me();
  if (me.time == machine.time()) machine.sleep_until(nullptr);
  return me.time = machine.time();
}

void sync_cluster() {
  need_clusters();
  Cluster& cluster = *machine.block().cluster;
  machine.meet_blocks(Meeting::kSyncCluster, cluster.met, cluster.first, cluster.blocks);
}

void barrier_init(uint64_t* barrier) {
  need_clusters();
  const size_t offset = offset_of(barrier, sizeof *barrier, "a barrier");
  store_barrier(machine.block(), offset, {0, Barrier::kMagic, 0, 1});
}

void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  machine.rest();
  const size_t offset = offset_of(barrier, sizeof *barrier, "a barrier");
  Barrier now = own_barrier(offset);
  if (!now.expects) machine.fail("barrier_expect a second time in one phase");
  if (bytes > kMostBytes) machine.fail("barrier_expect of more bytes than a barrier counts");
  now.expects = 0;
  now.bytes += static_cast<int32_t>(bytes);
  machine.me().time = 0;
  machine.progress();
  store_barrier(machine.block(), offset, now);
}

bool barrier_passed(uint64_t* barrier, unsigned parity) {
  machine.rest();
  const size_t offset = offset_of(barrier, sizeof *barrier, "a barrier");
  if (parity > 1) machine.fail("barrier_passed with a parity that is not 0 or 1");
  machine.me().time = 0;
  if (own_barrier(offset).phase != parity) return true;
  machine.sleep_until(barrier);
  return own_barrier(offset).phase != parity;
}

void send(int rank, void* to, const Words& value, uint64_t* barrier) {
  machine.rest();
  need_clusters();
  const size_t offset = offset_of(to, sizeof value, "sends to a place");
  const size_t counted = offset_of(barrier, sizeof *barrier, "a barrier");
  if (machine.block().cluster->blocks < 2) machine.fail("sends within a cluster of one block, which is undefined");
  if (rank < 0 || rank >= machine.block().cluster->blocks) machine.fail("sends to a block that the cluster has not");
  machine.me().time = 0;
  machine.send({&machine.block_of_cluster(rank), offset, counted, value});
}

// --- The host's side -----------------------------------------------------------------------------------------------

const char* device_facts(int device, Device* facts) {
  if (device != 0) return "there is only device 0";
  *facts = machine.facts;
  return nullptr;
}

const char* zero(void* memory, size_t bytes, void*) {
  std::memset(memory, 0, bytes);
  return nullptr;
}

namespace detail {

const char* launch(const std::function<void()>& thread, const Launch& how) {
  const std::lock_guard<std::mutex> only(one_launch);
  return machine.launch(thread, how);
}

int clusters_at_once(const Launch& how) {
  const Device& facts = machine.facts;
  if (facts.major < 9 || how.cluster < 1 || how.cluster > 16 || how.shared > facts.shared) return 0;
  return facts.multiprocessors / how.cluster;
}

}  // namespace detail

namespace host {

void set_schedule(uint64_t seed) { machine.random = Random(seed); }
void set_fault(int64_t send, int64_t release) { machine.lost_send = send, machine.lost_release = release; }
void set_device_facts(const Device& facts) { machine.facts = facts; }
const std::string& last_error() { return machine.error; }
uint64_t turns() { return machine.turns; }

}  // namespace host
}  // namespace crrl::gpu
