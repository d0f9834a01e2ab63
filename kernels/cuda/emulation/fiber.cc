#include "kernels/cuda/emulation/fiber.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace plait::emulation {
namespace {

namespace context = boost::context;

constexpr size_t kStackBytes = 256 << 10;  // taken when touched
constexpr size_t kGuardBytes = 4096;       // below

std::atomic<int> num_live = 0;

struct GuardedStacks {
  static context::stack_context allocate() {
    void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) {
      std::perror("emulated kernel: no memory for the stacks of a block");
      std::abort();
    }
    context::stack_context stack;
    stack.size = kStackBytes;
    stack.sp = static_cast<char*>(memory) + kGuardBytes + kStackBytes;
    return stack;
  }
  static void deallocate(context::stack_context& stack) {
    munmap(static_cast<char*>(stack.sp) - kStackBytes - kGuardBytes, kGuardBytes + kStackBytes);
  }
};

}  // namespace

Fiber::Fiber(const char* name, std::function<void()> run) : run_(std::move(run)) {
  const context::stack_context stack = GuardedStacks::allocate();
  own_stack_.Create(stack.sp, stack.size, name);
  own_ = context::fiber(std::allocator_arg, context::preallocated(stack.sp, stack.size, stack),
                        GuardedStacks(), [this](context::fiber&& resumer) {
                          resumer_ = std::move(resumer);
                          own_stack_.Arrive(&resumer_stack_);
                          while (!ending_) {
                            run_();
                            Suspend();
                          }
                          own_stack_.LeaveForGood(resumer_stack_);
                          return std::move(resumer_);
                        });
  ++num_live;
}

// The fiber's function returns: Boost would end it by an exception, on a stack that no sanitizer
// has heard of.
Fiber::~Fiber() {
  ending_ = true;
  Resume();
  own_stack_.Destroy();
  --num_live;
}

void Fiber::Resume() {
  resumer_stack_.Leave(own_stack_);
  own_ = std::move(own_).resume();
  resumer_stack_.Arrive();
}

void Fiber::Suspend() {
  own_stack_.Leave(resumer_stack_);
  resumer_ = std::move(resumer_).resume();
  own_stack_.Arrive();
}

int Fiber::NumLive() { return num_live; }

}  // namespace plait::emulation
