// Prints what teams of csrc/cpu/parallel.hpp did, in a process without an OpenMP runtime: there the pool serves.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <thread>
#include <vector>

#include "parallel.hpp"

namespace {

constexpr int64_t kCount = 1001;

// Whether on `threads` threads every item of three loops was taken once, and none before all of the loop before were.
bool shares(int threads) {
  std::vector<int> first(kCount), second(kCount), third(kCount);
  int early = 0, members = 0;
  const crrl::Deal deal(kCount);
  crrl::parallel(threads, [&] {
    __atomic_fetch_add(&members, 1, __ATOMIC_RELAXED);
    crrl::for_share(kCount, [&](int64_t i) { first[i] += 1; });
    crrl::meet();
    deal.run([&](int64_t i) {
      if (first[kCount - 1 - i] != 1) __atomic_fetch_add(&early, 1, __ATOMIC_RELAXED);
      second[i] += 1;
    });
    crrl::meet();
    crrl::for_share(kCount, [&](int64_t i) { third[i] += second[kCount - 1 - i]; });
  });
  for (const std::vector<int>& taken : {first, second, third}) {
    for (int count : taken) {
      if (count != 1) return false;
    }
  }
  return early == 0 && members == threads && crrl::thread() == 0 && crrl::team_size() == 1;
}

bool shares_often() {
  for (int round = 0; round < 200; ++round) {
    for (int threads : {1, 2, 5, 3}) {
      if (!shares(threads)) return false;
    }
  }
  return true;
}

// Two threads that each have a team at once.
bool shares_side_by_side() {
  bool results[2] = {};
  std::thread other([&] { results[1] = shares_often(); });
  results[0] = shares_often();
  other.join();
  return results[0] && results[1];
}

// A child has none of its parent's threads.
bool shares_after_a_fork() {
  const pid_t child = fork();
  if (child == 0) _exit(shares(4) ? 0 : 1);
  int status = 1;
  waitpid(child, &status, 0);
  return status == 0 && shares(4);
}

}  // namespace

int main() {
  std::printf("%s %d %d %d\n", crrl::thread_runtime(), shares_often(), shares_side_by_side(), shares_after_a_fork());
}
