#include "kernels/cuda/emulation/scheduler.h"

#include <sys/mman.h>

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/cuda/emulation/fiber_sanitizer.h"

namespace plait::emulation {

thread_local constinit Place current;

namespace {

namespace context = boost::context;

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 256 << 10;  // taken when touched

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "emulated kernel: %s\n", what.c_str());
  std::abort();
}

std::string ToString(Site site) { return std::string(site.file) + ":" + std::to_string(site.line); }

// Stacks with a guard page below.
struct GuardedStacks {
  static context::stack_context allocate() {
    constexpr size_t kGuard = 4096;
    void* memory = mmap(nullptr, kStackBytes + kGuard, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) Fail("no memory for the stacks of a block");
    mprotect(memory, kGuard, PROT_NONE);
    context::stack_context stack;
    stack.size = kStackBytes;
    stack.sp = static_cast<char*>(memory) + kGuard + kStackBytes;
    return stack;
  }
  static void deallocate(context::stack_context& stack) {
    munmap(static_cast<char*>(stack.sp) - stack.size - 4096, stack.size + 4096);
  }
};

enum class State { kReady, kAtBlockBarrier, kAtWarp, kFinished };
enum class WarpOperation { kBarrier, kShuffle, kBallot };

struct DeviceThread {
  context::fiber fiber;      // suspended, where the thread does not run
  FiberSanitizer sanitizer;  // of this fiber's stack
  Dimensions index;
  State state = State::kFinished;
  Site site{};
  // Of a warp operation that is waited for, and its result.
  WarpOperation operation = WarpOperation::kBarrier;
  unsigned mask = 0;
  uint64_t value = 0;
  unsigned source = 0;
};

// The threads of one block at a time, on one host thread. Fibers are kept from block to block.
class Block {
 public:
  void Run(Dimensions size, size_t dynamic_bytes, const std::function<void()>& body,
           uint64_t order) {
    body_ = &body;
    count_ = size.x * size.y * size.z;
    shared_.clear();
    static_bytes_ = 0;
    dynamic_.reset(dynamic_bytes == 0 ? nullptr : new char[dynamic_bytes]);
    if (dynamic_bytes > 0) std::memset(dynamic_.get(), 0xff, dynamic_bytes);
    while (threads_.size() < count_) threads_.push_back(std::make_unique<DeviceThread>());
    for (unsigned i = 0; i < count_; ++i) {
      DeviceThread& thread = *threads_[i];
      thread.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
      thread.state = State::kReady;
    }
    order_.resize(count_);
    std::iota(order_.begin(), order_.end(), 0u);
    if (order % 3 == 1) std::reverse(order_.begin(), order_.end());
    std::mt19937_64 random(order);
    finished_ = 0;
    while (finished_ < count_) {
      if (order % 3 == 2) std::shuffle(order_.begin(), order_.end(), random);
      bool moved = false;
      for (const unsigned i : order_) {
        if (threads_[i]->state != State::kReady) continue;
        Resume(i);
        moved = true;
      }
      moved = ReleaseBlockBarrier() || moved;
      if (!moved) FailDeadlock();
    }
    shared_.clear();
    dynamic_.reset();
  }

  DeviceThread& running() { return *threads_[running_]; }
  unsigned running_index() const { return running_; }

  // The running thread gives way; back when its state is kReady again.
  void Suspend() {
    DeviceThread& thread = running();
    thread.sanitizer.Leave(main_);
    back_ = std::move(back_).resume();
    thread.sanitizer.Arrive();
  }

  uint64_t WarpWait(WarpOperation operation, unsigned mask, uint64_t value, unsigned source,
                    Site site) {
    DeviceThread& thread = running();
    const unsigned lane = running_ % kWarp;
    if ((mask >> lane & 1) == 0) {
      Fail(ToString(site) + ": thread " + std::to_string(running_) +
           " of its block is not in its " + "own mask " + std::to_string(mask));
    }
    thread.operation = operation;
    thread.mask = mask;
    thread.value = value;
    thread.source = source;
    thread.site = site;
    thread.state = State::kAtWarp;
    CompleteWarp(running_ / kWarp * kWarp, mask);
    if (thread.state == State::kAtWarp) Suspend();
    return thread.value;
  }

  void* Shared(const void* key, size_t bytes) {
    auto& memory = shared_[key];
    if (!memory) {
      static_bytes_ += bytes;
      if (static_bytes_ > LaunchLimits::kStaticSharedBytes) {
        Fail("static shared memory of a block exceeds 48 KiB: " + std::to_string(static_bytes_));
      }
      memory.reset(new char[bytes]);
      std::memset(memory.get(), 0xff, bytes);
    }
    return memory.get();
  }
  void* dynamic() { return dynamic_.get(); }

 private:
  void Resume(unsigned i) {
    DeviceThread& thread = *threads_[i];
    running_ = i;
    current.thread = thread.index;
    if (!thread.fiber) {
      context::stack_context stack = GuardedStacks::allocate();
      thread.sanitizer.Create(stack.sp, stack.size);
      thread.fiber =
          context::fiber(std::allocator_arg, context::preallocated(stack.sp, stack.size, stack),
                         GuardedStacks(), [this, &thread](context::fiber&& back) {
                           back_ = std::move(back);
                           thread.sanitizer.Arrive(&main_);
                           for (;;) {
                             (*body_)();
                             thread.state = State::kFinished;
                             ++finished_;
                             Suspend();
                           }
                           return std::move(back_);
                         });
    }
    main_.Leave(thread.sanitizer);
    thread.fiber = std::move(thread.fiber).resume();
    main_.Arrive();
  }

  // Lets the lanes of `mask` go on where all of them have arrived at the same operation.
  void CompleteWarp(unsigned first, unsigned mask) {
    const DeviceThread& one = *threads_[running_];
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if ((mask >> lane & 1) == 0) continue;
      if (first + lane >= count_ || threads_[first + lane]->state == State::kFinished) {
        Fail(ToString(one.site) + ": mask " + std::to_string(mask) + " names lane " +
             std::to_string(lane) + ", which has left the kernel or is outside the block");
      }
      const DeviceThread& other = *threads_[first + lane];
      if (other.state != State::kAtWarp) return;  // on its way
      if (other.mask != mask || other.operation != one.operation ||
          other.site.line != one.site.line || std::strcmp(other.site.file, one.site.file) != 0) {
        if ((other.mask & mask) == 0) continue;
        Fail("lanes of one mask wait at " + ToString(one.site) + " (mask " + std::to_string(mask) +
             ") and at " + ToString(other.site) + " (mask " + std::to_string(other.mask) + ")");
      }
    }
    uint64_t values[kWarp] = {};
    uint64_t votes = 0;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if ((mask >> lane & 1) == 0) continue;
      values[lane] = threads_[first + lane]->value;
      if (values[lane] != 0) votes |= uint64_t{1} << lane;
    }
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if ((mask >> lane & 1) == 0) continue;
      DeviceThread& thread = *threads_[first + lane];
      if (thread.operation == WarpOperation::kShuffle) {
        if ((mask >> (thread.source % kWarp) & 1) == 0) {
          Fail(ToString(thread.site) + ": shuffle from lane " + std::to_string(thread.source) +
               ", which is not in mask " + std::to_string(mask));
        }
        thread.value = values[thread.source % kWarp];
      } else {
        thread.value = votes;
      }
      thread.state = State::kReady;
    }
  }

  bool ReleaseBlockBarrier() {
    const DeviceThread* first = nullptr;
    for (unsigned i = 0; i < count_; ++i) {
      const DeviceThread& thread = *threads_[i];
      if (thread.state == State::kFinished) continue;
      if (thread.state != State::kAtBlockBarrier) return false;
      if (first == nullptr) first = &thread;
      if (thread.site.line != first->site.line ||
          std::strcmp(thread.site.file, first->site.file) != 0)
        Fail("threads of one block wait at different barriers: " + ToString(first->site) + " and " +
             ToString(thread.site));
    }
    if (first == nullptr) return false;
    for (unsigned i = 0; i < count_; ++i) {
      if (threads_[i]->state == State::kAtBlockBarrier) threads_[i]->state = State::kReady;
    }
    return true;
  }

  [[noreturn]] void FailDeadlock() const {
    std::string waits;
    for (unsigned i = 0; i < count_; ++i) {
      const DeviceThread& thread = *threads_[i];
      if (thread.state == State::kFinished) continue;
      waits += "\n  thread " + std::to_string(i) + " at " + ToString(thread.site) +
               (thread.state == State::kAtWarp ? ", mask " + std::to_string(thread.mask)
                                               : ", block barrier");
    }
    Fail("deadlock: no thread of the block can go on" + waits);
  }

  const std::function<void()>* body_ = nullptr;
  unsigned count_ = 0;
  unsigned running_ = 0;
  unsigned finished_ = 0;
  std::vector<std::unique_ptr<DeviceThread>> threads_;
  std::vector<unsigned> order_;
  context::fiber back_;  // the scheduler, suspended
  FiberSanitizer main_;
  std::unordered_map<const void*, std::unique_ptr<char[]>> shared_;
  size_t static_bytes_ = 0;
  std::unique_ptr<char[]> dynamic_;
};

Block& ThisBlock() {
  static thread_local Block block;
  return block;
}

thread_local uint64_t next_order = 0;

}  // namespace

void SetFirstOrder(uint64_t seed) { next_order = seed; }

void RunGrid(Dimensions grid, Dimensions block, size_t dynamic_shared_bytes,
             const std::function<void()>& body) {
  const size_t threads = size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > LaunchLimits::kBlockThreads) {
    Fail("a block of " + std::to_string(threads) + " threads; at most 1024, at least 1");
  }
  if (dynamic_shared_bytes > LaunchLimits::kDynamicSharedBytes) {
    Fail("dynamic shared memory of a block exceeds 227 KiB: " +
         std::to_string(dynamic_shared_bytes));
  }
  const uint64_t order = next_order++;
  current.block_size = block;
  current.grid = grid;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        current.block = {x, y, z};
        ThisBlock().Run(block, dynamic_shared_bytes, body, order);
      }
    }
  }
}

void BlockBarrier(Site site) {
  Block& block = ThisBlock();
  block.running().site = site;
  block.running().state = State::kAtBlockBarrier;
  FiberSanitizer::Release(&block);
  block.Suspend();
  FiberSanitizer::Acquire(&block);
}

void WarpBarrier(unsigned mask, Site site) {
  Block& block = ThisBlock();
  const void* warp = reinterpret_cast<const char*>(&block) + 1 + block.running_index() / kWarp;
  FiberSanitizer::Release(warp);
  block.WarpWait(WarpOperation::kBarrier, mask, 0, 0, site);
  FiberSanitizer::Acquire(warp);
}

uint64_t Shuffle(unsigned mask, uint64_t value, unsigned source, Site site) {
  return ThisBlock().WarpWait(WarpOperation::kShuffle, mask, value, source, site);
}

unsigned Ballot(unsigned mask, bool predicate, Site site) {
  return static_cast<unsigned>(
      ThisBlock().WarpWait(WarpOperation::kBallot, mask, predicate ? 1 : 0, 0, site));
}

void* SharedArray(const void* key, size_t bytes) { return ThisBlock().Shared(key, bytes); }
void* DynamicShared() { return ThisBlock().dynamic(); }
unsigned Lane() { return ThisBlock().running_index() % kWarp; }

}  // namespace plait::emulation
