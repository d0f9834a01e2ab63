// Kernels that lack one barrier, or whose blocks write one address. Values tell in some orders, or
// never; ThreadSanitizer tells always, with both lines.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/device.h"
#include "tests/kernels/emulation_orders.h"

namespace plait {
namespace {

using cuda::LaunchKernel;
using emulation::FixedOrder;
using emulation::Order;

constexpr int kThreads = 64;

enum { kTileLine = __LINE__ + 5 };
template <bool kBarrier>
__global__ void ReverseKernel(const float* x, float* out) {
  PLAIT_SHARED(float, tile, kThreads);
  const int i = static_cast<int>(threadIdx.x);
  tile[i] = x[i];
  if (kBarrier) __syncthreads();
  out[i] = tile[kThreads - 1 - i];
}

template <bool kBarrier>
std::vector<float> Reversed() {
  const std::vector<float> x = Counted(kThreads);
  std::vector<float> out(x.size());
  LaunchKernel(ReverseKernel<kBarrier>, {1}, {kThreads}, 0, nullptr, x.data(), out.data());
  return out;
}

// The tile is written again at once. `kWarp`: the block is one warp, and so are its barriers.
enum { kReuseLine = __LINE__ + 7 };
template <bool kWarp, bool kBarrier>
__global__ void NeighbourKernel(const float* x, float* out) {
  PLAIT_SHARED(float, tile, kThreads);
  const unsigned i = threadIdx.x, next = std::min(i + 1, blockDim.x - 1);
  float value = x[i];
  for (int step = 0; step < 2; ++step) {
    tile[i] = value;
    kWarp ? __syncwarp() : __syncthreads();
    value += tile[next];
    if (kBarrier) kWarp ? __syncwarp() : __syncthreads();
  }
  out[i] = value;
}

template <bool kWarp, bool kBarrier>
std::vector<float> Neighbours() {
  const std::vector<float> x = Counted(kWarp ? 32 : kThreads);
  std::vector<float> out(x.size());
  LaunchKernel(NeighbourKernel<kWarp, kBarrier>, {1}, {static_cast<unsigned>(x.size())}, 0, nullptr,
               x.data(), out.data());
  return out;
}

// A shuffle makes all lanes wait, and orders no memory.
enum { kShuffleLine = __LINE__ + 5 };
template <bool kBarrier>
__global__ void PassedUnderShuffleKernel(const float* x, float* out) {
  PLAIT_SHARED(float, tile, 32);
  const int i = static_cast<int>(threadIdx.x);
  tile[i] = x[i];
  const float other = __shfl_xor_sync(~0u, x[i], 1);
  if (kBarrier) __syncwarp();
  out[i] = tile[31 - i] + other;
}

template <bool kBarrier>
std::vector<float> PassedUnderShuffle() {
  const std::vector<float> x = Counted(32);
  std::vector<float> out(x.size());
  LaunchKernel(PassedUnderShuffleKernel<kBarrier>, {1}, {32}, 0, nullptr, x.data(), out.data());
  return out;
}

// Each block's last thread also writes what the next block's first one does; or all blocks one
// flag.
enum { kOwnLine = __LINE__ + 4 };
template <bool kFlag, bool kRace>
__global__ void OverlappingBlocksKernel(float* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i + 1] = static_cast<float>(i);
  if (kRace && !kFlag && threadIdx.x + 1 == blockDim.x) out[i + 2] = static_cast<float>(i + 1);
  __syncthreads();
  if (kRace && kFlag && threadIdx.x == 0) out[0] = 0;
}

template <bool kFlag, bool kRace>
std::vector<float> OverlappingBlocks() {
  std::vector<float> out(4 * kThreads + 2);
  LaunchKernel(OverlappingBlocksKernel<kFlag, kRace>, {4}, {kThreads}, 0, nullptr, out.data());
  return out;
}

TEST(CudaEmulationRaceTest, KernelsWithAllTheirBarriersAreRightInEveryOrder) {
  std::vector<float> reversed = Counted(kThreads), neighbours, passed, blocks;
  std::reverse(reversed.begin(), reversed.end());
  ForEachOrder(2, [&] {
    EXPECT_EQ(Reversed<true>(), reversed);
    const auto found = Neighbours<false, true>();
    EXPECT_EQ(found[0], 8);  // (1 + 2) + (2 + 3)
    EXPECT_EQ(found[kThreads - 1], 4 * kThreads);
    const auto of_a_warp = Neighbours<true, true>();
    EXPECT_TRUE(std::equal(of_a_warp.begin(), of_a_warp.end() - 2, found.begin()));
    EXPECT_EQ(PassedUnderShuffle<true>()[0], 32 + 2);
    EXPECT_EQ((OverlappingBlocks<true, false>()[4 * kThreads]), 4 * kThreads - 1);
  });
}

#if !defined(__SANITIZE_THREAD__)

TEST(CudaEmulationRaceTest, AMissingBarrierGivesNanInEveryOrder) {
  ForEachOrder(4, [] {
    const std::vector<float> found = Reversed<false>();
    EXPECT_TRUE(std::any_of(found.begin(), found.end(), [](float x) { return std::isnan(x); }));
  });
}

TEST(CudaEmulationRaceTest, AMissingBarrierBeforeReuseIsWrongInReversedOrder) {
  const std::vector<float> right = Neighbours<false, true>();
  const auto found = [](Order order) {
    const FixedOrder fixed(order);
    return Neighbours<false, false>();
  };
  EXPECT_EQ(found(Order::kForward), right);
  EXPECT_NE(found(Order::kReversed), right);
}

// Why the tests run under ThreadSanitizer, too.
TEST(CudaEmulationRaceTest, SomeRacesNeverShowInValues) {
  ForEachOrder(4, [] {
    EXPECT_EQ(PassedUnderShuffle<false>(), PassedUnderShuffle<true>());
    EXPECT_EQ((OverlappingBlocks<false, true>()[kThreads]), kThreads - 1);
    EXPECT_EQ((OverlappingBlocks<true, true>()), (OverlappingBlocks<true, false>()));
  });
}

#else

// Each in a program that was started anew.
class CudaEmulationRaceDeathTest : public ::testing::Test {
 protected:
  CudaEmulationRaceDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

std::string At(int line) { return absl::StrCat("cuda_emulation_race_test\\.cc:", line, "[^0-9]"); }

// A report of these two lines.
std::string Race(int a, int b) {
  return absl::StrCat("WARNING: ThreadSanitizer: data race.*(", At(a), ".*", At(b), "|", At(b),
                      ".*", At(a), ")");
}

// In every order, also where values are right.
template <class Body>
void ExpectRace(int a, int b, const Body& body) {
  ForEachOrder(1, [&] {
    EXPECT_EXIT(
        {
          body();
          std::exit(0);
        },
        ::testing::ExitedWithCode(66), Race(a, b));
  });
}

TEST_F(CudaEmulationRaceDeathTest, AMissingBarrier) {
  ExpectRace(kTileLine, kTileLine + 2, [] { Reversed<false>(); });
}

TEST_F(CudaEmulationRaceDeathTest, AMissingBarrierBeforeReuse) {
  ExpectRace(kReuseLine, kReuseLine + 2, [] { Neighbours<false, false>(); });
}

TEST_F(CudaEmulationRaceDeathTest, AMissingWarpBarrierBeforeReuse) {
  ExpectRace(kReuseLine, kReuseLine + 2, [] { Neighbours<true, false>(); });
}

TEST_F(CudaEmulationRaceDeathTest, SharedDataPassedUnderAShuffle) {
  ExpectRace(kShuffleLine, kShuffleLine + 3, [] { PassedUnderShuffle<false>(); });
}

TEST_F(CudaEmulationRaceDeathTest, TwoBlocksThatWriteOneAddress) {
  ExpectRace(kOwnLine, kOwnLine + 1, [] { OverlappingBlocks<false, true>(); });
}

TEST_F(CudaEmulationRaceDeathTest, OneThreadOfTwoBlocksThatWritesOneAddress) {
  ExpectRace(kOwnLine + 3, kOwnLine + 3, [] { OverlappingBlocks<true, true>(); });
}

#endif

}  // namespace
}  // namespace plait
