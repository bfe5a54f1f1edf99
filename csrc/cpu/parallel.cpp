#include "parallel.hpp"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace crrl {
namespace {

using Work = void (*)(const void*);

struct Member {
  int64_t number = 0, size = 1;
};

thread_local Member member;

// The calling thread is `now` as long as this object lives.
class Joined {
 public:
  explicit Joined(Member now) : before_(member) { member = now; }
  Joined(const Joined&) = delete;
  Joined& operator=(const Joined&) = delete;
  ~Joined() { member = before_; }

 private:
  const Member before_;
};

// The entry points of GNU's OpenMP runtime, which LLVM's has too. They are looked up, not linked: torch's wheels bring
// the runtime under names of their own, and load it where every later module finds it.
struct Omp {
  void (*parallel)(void (*work)(void*), void* context, unsigned threads, unsigned flags);
  void (*barrier)();
  int (*number)();
  int (*size)();

  bool found() const { return parallel && barrier && number && size; }

  static const Omp& get() {
    static const Omp omp = {lookup<decltype(parallel)>("GOMP_parallel"), lookup<decltype(barrier)>("GOMP_barrier"),
                            lookup<decltype(number)>("omp_get_thread_num"),
                            lookup<decltype(size)>("omp_get_num_threads")};
    return omp;
  }

 private:
  template <typename Function>
  static Function lookup(const char* name) {
    return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
  }
};

struct Call {
  Work work;
  const void* context;
};

void run_omp_member(void* given) {
  const Joined joined({Omp::get().number(), Omp::get().size()});
  const Call& call = *static_cast<const Call*>(given);
  call.work(call.context);
}

// Threads that wait between teams for the next one. A thread that calls run_team has a pool of its own.
class Pool {
 public:
  Pool() = default;
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
    }
    begin_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void run(int threads, const Call& call) {
    while (static_cast<int>(workers_.size()) + 1 < threads) {
      const int64_t number = static_cast<int64_t>(workers_.size()) + 1;
      workers_.emplace_back([this, number, round = round_] { serve(number, round); });
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      call_ = call, size_ = threads, left_ = threads - 1;
      ++round_;
    }
    begin_.notify_all();
    run_member(0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return left_ == 0; });
  }

  // Spins, because the others come soon, and yields, because they may need this core.
  void meet() {
    const uint64_t now = meetings_.load();
    if (arrived_.fetch_add(1) + 1 == size_) {
      arrived_.store(0);
      meetings_.store(now + 1);
      return;
    }
    for (int spins = 0; meetings_.load() == now; ++spins) {
      if (spins >= 1000) std::this_thread::yield();
    }
  }

 private:
  void run_member(int64_t number);

  void serve(int64_t number, uint64_t seen) {
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        begin_.wait(lock, [&] { return ending_ || round_ != seen; });
        if (ending_) return;
        seen = round_;
        if (number >= size_) continue;
      }
      run_member(number);
      const std::lock_guard<std::mutex> lock(mutex_);
      if (--left_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable begin_, done_;
  std::vector<std::thread> workers_;
  Call call_{};
  int64_t size_ = 1, left_ = 0;  // of the team of this round
  uint64_t round_ = 0;
  bool ending_ = false;
  std::atomic<int64_t> arrived_{0};
  std::atomic<uint64_t> meetings_{0};
};

thread_local Pool* team = nullptr;  // whose team this thread is in

void Pool::run_member(int64_t number) {
  const Joined joined({number, size_});
  team = this;
  call_.work(call_.context);
  team = nullptr;
}

// A forked process has the pool's memory but none of its threads, so it starts with a new pool.
Pool& own_pool() {
  thread_local std::unique_ptr<Pool> pool;
  static const int registered = pthread_atfork(nullptr, nullptr, [] { static_cast<void>(pool.release()); });
  static_cast<void>(registered);
  if (pool == nullptr) pool = std::make_unique<Pool>();
  return *pool;
}

}  // namespace

void run_team(int threads, void (*work)(const void*), const void* context) {
  Call call{work, context};
  if (threads == 1) {
    const Joined joined({0, 1});
    return work(context);
  }
  if (Omp::get().found()) return Omp::get().parallel(run_omp_member, &call, static_cast<unsigned>(threads), 0);
  own_pool().run(threads, call);
}

int64_t thread() { return member.number; }

int64_t team_size() { return member.size; }

void meet() {
  if (member.size == 1) return;
  team != nullptr ? team->meet() : Omp::get().barrier();
}

const char* thread_runtime() { return Omp::get().found() ? "omp" : "pool"; }

}  // namespace crrl
