// Runs the threads of a CUDA block on the host, as fibers of the calling thread: kernels are tested
// for logic and synchronisation where there is no GPU. Blocks run one after another; a thread runs
// until it waits at a barrier, shuffle or vote, and who goes next changes from launch to launch
// (forward, reversed, shuffled). What CUDA leaves undefined ends the process with one line that
// says where: barriers at different lines, a lane missing from its own mask, a shuffle from a lane
// that has left, a block too large, a deadlock. Not emulated: PTX, tensor cores, asynchronous
// copies, clusters. Fences and weak memory order do not show.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace plait::emulation {

struct Dimensions {
  unsigned x = 1, y = 1, z = 1;
};

// Where a kernel waits.
struct Site {
  const char* file;
  int line;
};

struct LaunchLimits {
  static constexpr unsigned kBlockThreads = 1024;
  static constexpr size_t kStaticSharedBytes = 48 << 10;
  static constexpr size_t kDynamicSharedBytes = 227 << 10;
};

// What the running device thread sees of its place.
struct Place {
  Dimensions thread, block, block_size, grid;
};
extern thread_local constinit Place current;

// Runs `body` once for every thread of the grid. A grid without blocks runs nothing.
void RunGrid(Dimensions grid, Dimensions block, size_t dynamic_shared_bytes,
             const std::function<void()>& body);

// The order of threads in every later launch of the process: launches take turns from here.
void SetFirstOrder(uint64_t seed);

// Inside of a kernel.
void BlockBarrier(Site site);
void WarpBarrier(unsigned mask, Site site);
// The value of lane `source` of this warp; every lane of `mask` must call.
uint64_t Shuffle(unsigned mask, uint64_t value, unsigned source, Site site);
unsigned Ballot(unsigned mask, bool predicate, Site site);
// Memory of this block under `key`: of exactly this size, filled with NaN (0xff) when first asked
// for.
void* SharedArray(const void* key, size_t bytes);
void* DynamicShared();
unsigned Lane();

}  // namespace plait::emulation
