// Work shared among threads: torch's, if it has loaded an OpenMP runtime into the process, so that two pools do not
// contend for the cores; otherwise a pool of ours. The compiler needs no OpenMP.
#pragma once

#include <cstdint>

namespace crrl {

// Calls work(context) once on each of at most `threads` threads, the caller's among them; returns when all have
// finished. Throws std::system_error if no thread can be started. Must not be nested.
void run_team(int threads, void (*work)(const void*), const void* context);

// The number of a thread in its team, in 0..team_size() - 1. Outside of a team: 0 of 1.
int64_t thread();
int64_t team_size();

// Returns once all threads of the team have called it.
void meet();

// "omp": the runtime that torch uses; "pool": ours.
const char* thread_runtime();

namespace {  // each source file has its own copy: see simd.hpp

// Calls body() on each thread of a team. It must not throw.
template <typename Body>
void parallel(int threads, const Body& body) {
  run_team(threads, [](const void* context) { (*static_cast<const Body*>(context))(); }, &body);
}

// Calls each(i) for this thread's even part of 0..count - 1; does not wait for the others.
template <typename Each>
inline void for_share(int64_t count, const Each& each) {
  const int64_t size = team_size(), number = thread(), part = count / size, more = count % size;
  const int64_t first = number * part + (number < more ? number : more);
  const int64_t last = first + part + (number < more ? 1 : 0);
  for (int64_t i = first; i < last; ++i) each(i);
}

// Deals out 0..count - 1 of one loop to whichever thread asks next. Construct it before the team starts.
class Deal {
 public:
  explicit Deal(int64_t count) : count_(count) {}
  Deal(const Deal&) = delete;
  Deal& operator=(const Deal&) = delete;

  // Calls each(i) for each i that this thread is dealt; does not wait for the others.
  template <typename Each>
  void run(const Each& each) const {
    for (int64_t i = take(); i < count_; i = take()) each(i);
  }

 private:
  int64_t take() const { return __atomic_fetch_add(&next_, 1, __ATOMIC_RELAXED); }

  const int64_t count_;
  mutable int64_t next_ = 0;
};

}  // namespace
}  // namespace crrl
