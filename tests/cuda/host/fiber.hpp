// A function with a stack of its own, and switches between such functions that cost no system call.
#pragma once

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <new>

namespace crrl::gpu {

// makecontext makes the first jump onto a new stack; all others are _longjmp, which leaves signal masks alone.
class Fiber {
 public:
  Fiber() = default;  // the stack that the caller is on
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() {
    if (memory_) munmap(memory_, kPage + kStack);
  }

  // From now on, a switch to this fiber calls `loop`, which never returns. Whatever it did before is forgotten.
  __attribute__((noinline)) void start(void (*loop)()) {
    if (!memory_) allocate();
    ucontext_t first;
    getcontext(&first);
    first.uc_stack.ss_sp = memory_ + kPage;
    first.uc_stack.ss_size = kStack - colour_;
    first.uc_link = nullptr;
    makecontext(&first, enter, 0);
    starting() = {this, loop, {}};
    if (_setjmp(starting().back) == 0) setcontext(&first);
    asm volatile("" ::: "memory");
  }

  // Goes on where `to` stopped, and returns when somebody switches back to this one. Any memory may have changed by
  // then, which a compiler that sees no call but one that never returns does not expect: hence the empty statement.
  __attribute__((noinline)) void switch_to(Fiber& to) {
    if (_setjmp(context_) == 0) _longjmp(to.context_, 1);
    asm volatile("" ::: "memory");
  }

 private:
  static constexpr size_t kPage = 4096, kStack = 64 * 1024;
  static constexpr int kMostGuards = 8192;  // each costs two of the process's 65,530 mappings

  struct Start {
    Fiber* fiber;
    void (*loop)();
    jmp_buf back;
  };
  static Start& starting() {
    static Start start;
    return start;
  }

  static void enter() {
    void (*const loop)() = starting().loop;
    if (_setjmp(starting().fiber->context_) == 0) _longjmp(starting().back, 1);
    loop();
  }

  void allocate() {
    static int fibers = 0;
    void* const memory = mmap(nullptr, kPage + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<unsigned char*>(memory);
    if (fibers < kMostGuards) mprotect(memory_, kPage, PROT_NONE);
    // The tops of the stacks must not share a few sets of the caches.
    colour_ = static_cast<size_t>(fibers++ % 32) * 320;
  }

  jmp_buf context_;
  unsigned char* memory_ = nullptr;
  size_t colour_ = 0;
};

}  // namespace crrl::gpu
