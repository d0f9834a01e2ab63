#include "kernels/cuda/emulation/scheduler.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <random>
#include <unordered_map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/emulation/block.h"

namespace plait::emulation {

thread_local constinit Place current;

namespace {

// Of one host thread.
struct Device {
  Block block;
  std::unordered_map<const void*, uint64_t> launches;  // of each kernel
  std::optional<Order> fixed_order;
  uint64_t fixed_seed = 0;
};

Device& ThisDevice() {
  static thread_local Device device;
  return device;
}

Block& ThisBlock() { return ThisDevice().block; }

bool Exceeds(Dimensions size, Dimensions limit) {
  return size.x > limit.x || size.y > limit.y || size.z > limit.z;
}

void CheckLimits(Dimensions grid, Dimensions block, size_t dynamic_shared_bytes) {
  if (Exceeds(grid, LaunchLimits::kGrid)) {
    End(absl::StrCat("a grid of ", ToString(grid), " blocks; at most ",
                     ToString(LaunchLimits::kGrid)));
  }
  const size_t threads = size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > LaunchLimits::kBlockThreads ||
      Exceeds(block, LaunchLimits::kBlock)) {
    End(absl::StrCat("a block of ", ToString(block), " threads; at least 1, at most ",
                     LaunchLimits::kBlockThreads, " in all and ", ToString(LaunchLimits::kBlock)));
  }
  if (dynamic_shared_bytes > LaunchLimits::kSharedBytes) {
    End(absl::StrCat("dynamic shared memory of a block exceeds 227 KiB: ", dynamic_shared_bytes,
                     " bytes"));
  }
}

// The numbers of a grid's blocks in the order in which they run.
std::vector<uint32_t> BlockNumbers(uint64_t blocks, Order order, uint64_t seed) {
  std::vector<uint32_t> numbers(blocks);
  std::iota(numbers.begin(), numbers.end(), 0u);
  if (order == Order::kReversed) std::reverse(numbers.begin(), numbers.end());
  if (order == Order::kShuffled) {
    std::shuffle(numbers.begin(), numbers.end(), std::mt19937_64(seed));
  }
  return numbers;
}

}  // namespace

FixedOrder::FixedOrder(Order order, uint64_t seed) {
  ThisDevice().fixed_order = order;
  ThisDevice().fixed_seed = seed;
}
FixedOrder::~FixedOrder() { ThisDevice().fixed_order.reset(); }

void RunGrid(const void* kernel, Dimensions grid, Dimensions block, size_t dynamic_shared_bytes,
             const std::function<void()>& body) {
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (blocks == 0) return;
  CheckLimits(grid, block, dynamic_shared_bytes);
  const IgnoreAccesses ignore;
  Device& device = ThisDevice();
  constexpr Order kTurns[] = {Order::kReversed, Order::kShuffled, Order::kForward};
  const uint64_t launch = device.launches[kernel]++;
  const Order order = device.fixed_order.value_or(kTurns[launch % std::size(kTurns)]);
  const uint64_t seed = device.fixed_order ? device.fixed_seed : launch;
  current.block_size = block;
  current.grid = grid;
  FiberSanitizer::Release(device.block.begin());
  uint64_t ran = 0;
  for (const uint32_t number : BlockNumbers(blocks, order, seed)) {
    current.block = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
    device.block.Run(block, dynamic_shared_bytes, body, order, seed + number, ran++);
  }
  FiberSanitizer::Acquire(device.block.end());
}

void BlockBarrier(Site site) {
  const IgnoreAccesses ignore;
  ThisBlock().BlockBarrier(site);
}

void WarpBarrier(unsigned mask, Site site) {
  const IgnoreAccesses ignore;
  ThisBlock().WarpBarrier(mask, site);
}

uint64_t Shuffle(unsigned mask, uint64_t value, unsigned source, Site site) {
  const IgnoreAccesses ignore;
  return ThisBlock().WarpWait(WarpOperation::kShuffle, mask, value, source, site);
}

unsigned Ballot(unsigned mask, bool predicate, Site site) {
  const IgnoreAccesses ignore;
  return static_cast<unsigned>(
      ThisBlock().WarpWait(WarpOperation::kVote, mask, predicate ? 1 : 0, 0, site));
}

void BeforeAtomic() {
  const IgnoreAccesses ignore;
  ThisBlock().BeforeAtomic();
}

void* SharedArray(const void* key, size_t bytes, Site site) {
  const IgnoreAccesses ignore;
  return ThisBlock().SharedArray(key, bytes, site);
}

void* DynamicShared() { return ThisBlock().dynamic_shared(); }
unsigned Lane() { return ThisBlock().lane(); }
void Fail(Site site, const char* what) { ThisBlock().FailAt(site, what); }

}  // namespace plait::emulation
