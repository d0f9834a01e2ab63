// Runs the threads of a CUDA block on the host, as fibers of the calling thread: kernels are tested
// for logic and synchronisation where there is no GPU. Blocks run one after another; a thread runs
// until it waits at a barrier, shuffle or vote; who goes first changes from launch to launch. What
// CUDA leaves undefined ends the process with a message that says where: barriers or warp
// operations at different lines, a lane missing from its own mask, a mask that names a lane which
// has left, a shuffle from a lane outside the mask, a deadlock, a launch beyond the device's
// limits. With ThreadSanitizer every device thread is one of its threads, so that a missing barrier
// is reported with both lines, also where values come out right; shuffles and votes order no
// memory. Not emulated: PTX, tensor cores, asynchronous copies, clusters, blocks that wait for one
// another. Fences and weak memory order do not show.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace plait::emulation {

struct Dimensions {
  unsigned x = 1, y = 1, z = 1;
};

// Where a kernel waits, or names shared memory.
struct Site {
  const char* file;
  int line;
};

// Of compute capability 9.0.
struct LaunchLimits {
  static constexpr Dimensions kGrid = {2147483647, 65535, 65535};
  static constexpr Dimensions kBlock = {1024, 1024, 64};
  static constexpr unsigned kBlockThreads = 1024;
  static constexpr size_t kStaticSharedBytes = 48 << 10;
  static constexpr size_t kSharedBytes = 227 << 10;  // static and dynamic
};

// What the running device thread sees of its place.
struct Place {
  Dimensions thread, block, block_size, grid;
};
extern thread_local constinit Place current;

// Runs `body` once for every thread of the grid; `kernel` names it. A grid without blocks runs
// nothing. Several host threads may run grids at once.
void RunGrid(const void* kernel, Dimensions grid, Dimensions block, size_t dynamic_shared_bytes,
             const std::function<void()>& body);

// Of a grid's blocks and of the threads in each. Shuffled: anew whenever all have had their turn,
// and a thread may also give way before an atomic operation. Launches of one kernel by one host
// thread take turns: reversed, shuffled, forward.
enum class Order { kReversed, kShuffled, kForward };

// While one lives, all launches of this host thread are in `order`; `seed` chooses among the
// shuffled.
class FixedOrder {
 public:
  explicit FixedOrder(Order order, uint64_t seed = 0);
  ~FixedOrder();
  FixedOrder(const FixedOrder&) = delete;
  FixedOrder& operator=(const FixedOrder&) = delete;
};

// Inside of a kernel.
void BlockBarrier(Site site);
void WarpBarrier(unsigned mask, Site site);
// The value of lane `source` of this warp; every lane of `mask` must call.
uint64_t Shuffle(unsigned mask, uint64_t value, unsigned source, Site site);
unsigned Ballot(unsigned mask, bool predicate, Site site);
void BeforeAtomic();
// Memory of this block under `key`: of exactly this size, filled with NaN (0xff) when first asked
// for.
void* SharedArray(const void* key, size_t bytes, Site site);
void* DynamicShared();
unsigned Lane();
[[noreturn]] void Fail(Site site, const char* what);

}  // namespace plait::emulation
