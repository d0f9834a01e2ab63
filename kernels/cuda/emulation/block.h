// The threads of one block at a time, as fibers of one host thread, kept from block to block. See
// scheduler.h.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/cuda/emulation/fiber.h"
#include "kernels/cuda/emulation/fiber_sanitizer.h"
#include "kernels/cuda/emulation/scheduler.h"

namespace plait::emulation {

// Ends the process.
[[noreturn]] void End(const std::string& what);

std::string ToString(Dimensions dimensions);

enum class WarpOperation { kBarrier, kShuffle, kVote };

class Block {
 public:
  // Until all threads have left `body`. `number`: how many blocks of the grid ran before.
  void Run(Dimensions size, size_t dynamic_shared_bytes, const std::function<void()>& body,
           Order order, uint64_t seed, uint64_t number);

  // Of the running thread.
  void BlockBarrier(Site site);
  void WarpBarrier(unsigned mask, Site site);
  // A shuffle's value, or the lanes whose `value` is not zero.
  uint64_t WarpWait(WarpOperation operation, unsigned mask, uint64_t value, unsigned source,
                    Site site);
  // It may give way here.
  void BeforeAtomic();
  void* SharedArray(const void* key, size_t bytes, Site site);
  void* dynamic_shared() { return dynamic_.get(); }
  unsigned lane() const;
  [[noreturn]] void FailAt(Site site, const std::string& what) const;

  // What a launch's host thread releases before, and acquires after.
  const void* begin() const { return &begin_; }
  const void* end() const { return &end_; }

 private:
  enum class State { kReady, kAtBlockBarrier, kAtWarp, kFinished };

  struct DeviceThread {
    std::unique_ptr<Fiber> fiber;
    Dimensions index;
    State state = State::kFinished;
    Site site{};
    // Of a warp operation that is waited for, and its result.
    WarpOperation operation = WarpOperation::kBarrier;
    unsigned mask = 0;
    uint64_t value = 0;
    unsigned source = 0;
  };
  using DeviceThreads = std::vector<std::unique_ptr<DeviceThread>>;

  // What a barrier orders goes through one of two places by turns: who comes early to the next one
  // releases there what those who still leave this one must not acquire.
  struct BarrierClock {
    const void* place() const { return &places[turn % 2]; }
    unsigned turn = 0;
    char places[2] = {};
  };
  struct Clocks {
    BarrierClock block;
    std::map<std::pair<unsigned, unsigned>, BarrierClock> warps;  // by warp and mask
  };

  // Where races are looked for, neighbouring blocks run on different fibers: the thread of one
  // index would else be one thread in all blocks, which cannot race with itself. More sets would
  // find more, at the price of fibers.
  static constexpr size_t kFiberSets = FiberSanitizer::kFindsRaces ? 2 : 1;

  DeviceThread& thread(unsigned i) const { return *(*threads_)[i]; }
  DeviceThread& running() const { return thread(running_); }
  BarrierClock& warp_clock(unsigned mask);

  void ChooseFibers(uint64_t number);
  void CompleteWarp();
  bool ReleaseBlockBarrier();

  static bool Together(const DeviceThread& a, const DeviceThread& b);
  void FailIfGone(const DeviceThread& waiting, unsigned i) const;
  [[noreturn]] void FailApart(const DeviceThread& a, const DeviceThread& b) const;
  [[noreturn]] void FailDeadlock() const;
  std::string PlaceOf(unsigned i) const;
  std::string Waits() const;

  const std::function<void()>* body_ = nullptr;
  unsigned num_threads_ = 0;
  unsigned running_ = 0;
  unsigned num_finished_ = 0;
  bool shuffled_ = false;
  std::mt19937_64 random_;
  std::array<DeviceThreads, kFiberSets> fiber_sets_;
  std::array<Clocks, kFiberSets> clocks_;
  size_t set_ = 0;
  DeviceThreads* threads_ = nullptr;  // fiber_sets_[set_]
  std::vector<unsigned> order_;
  std::unordered_map<const void*, std::unique_ptr<char[]>> shared_;
  size_t static_bytes_ = 0;
  size_t dynamic_bytes_ = 0;
  std::unique_ptr<char[]> dynamic_;
  char begin_ = 0, end_ = 0;
};

}  // namespace plait::emulation
