// The emulation of a block: kernels that are right, which must pass in every order, and kernels
// with one planted fault each, which must come out wrong. cuda_emulation_failure_test.cc has the
// faults that end the process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <thread>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/emulation/fiber.h"
#include "kernels/cuda/emulation/scheduler.h"
#include "tests/kernels/emulation_orders.h"

namespace plait {
namespace {

using cuda::LaunchKernel;
using emulation::Dimensions;
using emulation::FixedOrder;
using emulation::Order;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Not;
using ::testing::Truly;
using ::testing::UnorderedElementsAre;

constexpr int kThreads = 96;

const auto kIsNan = Truly([](float value) { return std::isnan(value); });

__global__ void NumberKernel(int* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] += static_cast<int>(block + 1);
}

TEST(CudaEmulationTest, EveryThreadOfAGridOfThreeDimensionsRunsOnce) {
  ForEachOrder(8, [] {
    constexpr Dimensions kGrid{3, 2, 4}, kBlock{5, 3, 2};
    std::vector<int> out(24 * 30);
    ASSERT_EQ(LaunchKernel(NumberKernel, kGrid, kBlock, 0, nullptr, out.data()), 0);
    for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], static_cast<int>(i / 30 + 1)) << i;
  });
}

TEST(CudaEmulationTest, AnEmptyGridRunsNothing) {
  for (const Dimensions grid : {Dimensions{0, 1, 1}, {1, 0, 1}, {1, 1, 0}}) {
    EXPECT_EQ(LaunchKernel(NumberKernel, grid, {32}, 0, nullptr, static_cast<int*>(nullptr)), 0);
  }
}

__global__ void ArrivalKernel(int* next, unsigned* arrivals) {
  arrivals[atomicAdd(next, 1)] = blockIdx.x * blockDim.x + threadIdx.x;
}

std::vector<unsigned> Arrivals() {
  int next = 0;
  std::vector<unsigned> arrivals(6);
  LaunchKernel(ArrivalKernel, {2}, {3}, 0, nullptr, &next, arrivals.data());
  return arrivals;
}

TEST(CudaEmulationTest, LaunchesOfAKernelTakeTurnsReversedShuffledForward) {
  std::thread([] {  // none was launched before
    for (int round = 0; round < 2; ++round) {
      EXPECT_THAT(Arrivals(), ElementsAre(5, 4, 3, 2, 1, 0));
      EXPECT_THAT(Arrivals(), UnorderedElementsAre(0, 1, 2, 3, 4, 5));
      EXPECT_THAT(Arrivals(), ElementsAre(0, 1, 2, 3, 4, 5));
    }
  })
      .join();
}

TEST(CudaEmulationTest, AShuffledOrderIsThatOfItsSeed) {
  std::vector<std::vector<unsigned>> found;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    const FixedOrder fixed(Order::kShuffled, seed);
    found.push_back(Arrivals());
    EXPECT_EQ(Arrivals(), found.back());
  }
  EXPECT_THAT(found, Contains(Not(found[0])));
}

__global__ void CountKernel(int* count, int* interrupted) {
  const int before = __atomic_load_n(count, __ATOMIC_RELAXED);
  if (atomicAdd(count, 1) != before) atomicAdd(interrupted, 1);
}

TEST(CudaEmulationTest, AThreadMayGiveWayAtAnAtomicOperationInShuffledOrder) {
  for (const Order order : {Order::kForward, Order::kReversed, Order::kShuffled}) {
    const FixedOrder fixed(order, 3);
    int count = 0, interrupted = 0;
    LaunchKernel(CountKernel, {1}, {kThreads}, 0, nullptr, &count, &interrupted);
    EXPECT_EQ(count, kThreads);
    EXPECT_EQ(interrupted > 0, order == Order::kShuffled);
  }
}

// out[i] = x[i] in reverse, in tiles.
__global__ void ReverseKernel(const float* x, float* out) {
  PLAIT_SHARED(float, tile, kThreads);
  const int i = static_cast<int>(threadIdx.x);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kThreads;
  tile[i] = x[begin + i];
  __syncthreads();
  out[begin + i] = tile[kThreads - 1 - i];
}

std::vector<float> Reversed(const std::vector<float>& x) {
  std::vector<float> out(x.size());
  LaunchKernel(ReverseKernel, {static_cast<unsigned>(x.size() / kThreads)}, {kThreads}, 0, nullptr,
               x.data(), out.data());
  return out;
}

TEST(CudaEmulationTest, ABarrierOrdersSharedMemory) {
  const std::vector<float> x = Counted(3 * kThreads);
  std::vector<float> expected = x;
  for (auto tile = expected.begin(); tile != expected.end(); tile += kThreads) {
    std::reverse(tile, tile + kThreads);
  }
  ForEachOrder(8, [&] { EXPECT_EQ(Reversed(x), expected); });
}

// Threads beyond `count` return before the load that all must take part in.
__global__ void EarlyReturnKernel(const float* x, int count, float* out) {
  PLAIT_SHARED(float, tile, kThreads);
  const int i = static_cast<int>(threadIdx.x);
  if (i >= count) return;
  tile[i] = x[i];
  __syncthreads();
  float sum = 0;
  for (int j = 0; j < kThreads; ++j) sum += tile[j];
  out[i] = sum;
}

TEST(CudaEmulationTest, AnEarlyReturnBeforeACooperativeLoadGivesNanInEveryOrder) {
  ForEachOrder(8, [] {
    const std::vector<float> x = Counted(kThreads);
    std::vector<float> out(40);
    LaunchKernel(EarlyReturnKernel, {1}, {kThreads}, 0, nullptr, x.data(), 40, out.data());
    EXPECT_THAT(out, Each(kIsNan));
    std::vector<float> all(kThreads);
    LaunchKernel(EarlyReturnKernel, {1}, {kThreads}, 0, nullptr, x.data(), kThreads, all.data());
    EXPECT_THAT(all, Each(kThreads * (kThreads + 1) / 2));
  });
}

__global__ void LeftoverKernel(float* out) {
  PLAIT_SHARED(float, fixed, 32);
  PLAIT_DYNAMIC_SHARED(float, dynamic);
  out[2 * (blockIdx.x * blockDim.x + threadIdx.x)] = fixed[threadIdx.x];
  out[2 * (blockIdx.x * blockDim.x + threadIdx.x) + 1] = dynamic[threadIdx.x];
  fixed[threadIdx.x] = dynamic[threadIdx.x] = 1;
}

TEST(CudaEmulationTest, SharedMemoryIsNanAtTheBeginOfEveryBlock) {
  std::vector<float> out(3 * 32 * 2);
  LaunchKernel(LeftoverKernel, {3}, {32}, 32 * sizeof(float), nullptr, out.data());
  EXPECT_THAT(out, Each(kIsNan));
}

// Places of choices, by groups, in the order of arrival.
__global__ void ScatterKernel(const int* group, int* next, int* place) {
  const int i = static_cast<int>(threadIdx.x);
  place[i] = atomicAdd(&next[group[i]], 1);
}

TEST(CudaEmulationTest, AnUnstableScatterIsStableInForwardOrderOnly) {
  const auto places = [](Order order) {
    const FixedOrder fixed(order, 1);
    std::vector<int> group(kThreads), next = {0, kThreads / 2}, place(kThreads);
    for (size_t i = 0; i < group.size(); ++i) group[i] = static_cast<int>(i % 2);
    LaunchKernel(ScatterKernel, {1}, {kThreads}, 0, nullptr, group.data(), next.data(),
                 place.data());
    return place;
  };
  std::vector<int> stable(kThreads);
  for (int i = 0; i < kThreads; ++i) stable[static_cast<size_t>(i)] = i / 2 + i % 2 * kThreads / 2;
  EXPECT_EQ(places(Order::kForward), stable);
  EXPECT_NE(places(Order::kReversed), stable);
  EXPECT_NE(places(Order::kShuffled), stable);
}

enum class Mode { kIndex, kUp, kDown, kXor };

__global__ void ShuffleKernel(Mode mode, int operand, int width, int* out) {
  const int own = static_cast<int>(threadIdx.x) + 100;
  const auto lanes = static_cast<unsigned>(operand);
  int value = 0;
  switch (mode) {
    case Mode::kIndex:
      value = __shfl_sync(~0u, own, operand, width);
      break;
    case Mode::kUp:
      value = __shfl_up_sync(~0u, own, lanes, width);
      break;
    case Mode::kDown:
      value = __shfl_down_sync(~0u, own, lanes, width);
      break;
    case Mode::kXor:
      value = __shfl_xor_sync(~0u, own, operand, width);
      break;
  }
  out[threadIdx.x] = value;
}

// The lane whose value `lane` gets: PTX ISA, shfl.sync, with the operands c that CUDA's
// sm_30_intrinsics.hpp makes of a width.
int SourceLane(Mode mode, int lane, int operand, int width) {
  const int clamp = mode == Mode::kUp ? 0 : 31, segment_mask = 32 - width;
  const int last = (lane & segment_mask) | (clamp & ~segment_mask);
  const int first = lane & segment_mask;
  switch (mode) {
    case Mode::kIndex:
      return first | (operand & ~segment_mask & 31);
    case Mode::kUp:
      return lane - operand >= last ? lane - operand : lane;
    case Mode::kDown:
      return lane + operand <= last ? lane + operand : lane;
    case Mode::kXor:
      return (lane ^ operand) <= last ? lane ^ operand : lane;
  }
  return lane;
}

TEST(CudaEmulationTest, ShufflesOfEveryWidthReadTheLanesThatPtxSays) {
  for (const Mode mode : {Mode::kIndex, Mode::kUp, Mode::kDown, Mode::kXor}) {
    for (const int width : {1, 2, 4, 8, 16, 32}) {
      for (const int operand : {0, 1, 2, 3, 5, 8, 15, 16, 17, 31}) {
        std::vector<int> out(64);
        LaunchKernel(ShuffleKernel, {1}, {64}, 0, nullptr, mode, operand, width, out.data());
        for (int i = 0; i < 64; ++i) {
          EXPECT_EQ(out[static_cast<size_t>(i)],
                    100 + i / 32 * 32 + SourceLane(mode, i % 32, operand, width))
              << "mode " << static_cast<int>(mode) << ", width " << width << ", operand " << operand
              << ", thread " << i;
        }
      }
    }
  }
}

template <class T>
__global__ void RotateKernel(const T* x, T* out) {
  const int lane = static_cast<int>(threadIdx.x);
  out[lane] = __shfl_sync(~0u, x[lane], lane + 1);
}

template <class T>
void ExpectRotates() {
  std::vector<T> x(32), out(32);
  for (size_t i = 0; i < 32; ++i) x[i] = static_cast<T>(i) - static_cast<T>(5);
  LaunchKernel(RotateKernel<T>, {1}, {32}, 0, nullptr, x.data(), out.data());
  std::rotate(x.begin(), x.begin() + 1, x.end());
  EXPECT_EQ(out, x);
}

TEST(CudaEmulationTest, ShufflesCarryEveryType) {
  ExpectRotates<int>();
  ExpectRotates<int64_t>();
  ExpectRotates<float>();
  ExpectRotates<double>();
}

__global__ void VoteKernel(unsigned* ballots, int* any, int* all) {
  const unsigned i = threadIdx.x;
  const unsigned mask = i % 32 < 8 ? 0xffu : 0xffffff00u;
  ballots[i] = __ballot_sync(mask, i % 3 == 0);
  any[i] = __any_sync(mask, i % 32 == 9);
  all[i] = __all_sync(mask, i % 32 < 8);
}

TEST(CudaEmulationTest, VotesAreOfTheLanesOfTheMask) {
  ForEachOrder(8, [] {
    std::vector<unsigned> ballots(64);
    std::vector<int> any(64), all(64);
    LaunchKernel(VoteKernel, {1}, {64}, 0, nullptr, ballots.data(), any.data(), all.data());
    for (unsigned i = 0; i < 64; ++i) {
      unsigned expected = 0;
      for (unsigned lane = 0; lane < 32; ++lane) {
        if ((lane < 8) == (i % 32 < 8) && (i / 32 * 32 + lane) % 3 == 0) expected |= 1u << lane;
      }
      EXPECT_EQ(ballots[i], expected) << i;
      EXPECT_EQ(any[i], i % 32 >= 8) << i;
      EXPECT_EQ(all[i], i % 32 < 8) << i;
    }
  });
}

// Some lanes meet in a branch before all meet; whole warps, and single threads before a barrier,
// leave early.
__global__ void DivergentKernel(int* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int value = lane;
  if (threadIdx.x >= 64) return;
  if (lane < 5) {
    __syncwarp(0x1f);
    value = __shfl_sync(0x1f, value, 4 - lane);
  } else if (lane >= 30) {
    value = __shfl_xor_sync(0xc0000000u, value, 1);
  }
  value = __shfl_sync(~0u, value, 31 - lane);
  out[threadIdx.x] = value;
  if (threadIdx.x % 7 == 3) return;
  __syncthreads();
}

TEST(CudaEmulationTest, MasksInABranchAndThreadsThatLeaveEarlyAreLegal) {
  ForEachOrder(8, [] {
    std::vector<int> out(64);
    LaunchKernel(DivergentKernel, {1}, {kThreads}, 0, nullptr, out.data());
    for (int i = 0; i < 64; ++i) {
      const int from = 31 - i % 32;
      const int expected = from < 5 ? 4 - from : from >= 30 ? 61 - from : from;
      EXPECT_EQ(out[static_cast<size_t>(i)], expected) << i;
    }
  });
}

TEST(CudaEmulationTest, HostThreadsRunKernelsAtOnce) {
  const int before = emulation::Fiber::NumLive();
  const auto work = [](int blocks) {
    for (int i = 0; i < 50; ++i) {
      const std::vector<float> x = Counted(blocks * kThreads);
      const std::vector<float> reversed = Reversed(x);
      ASSERT_NE(reversed, x);
      ASSERT_EQ(Reversed(reversed), x);
    }
  };
  std::thread one(work, 3), other(work, 5);
  one.join();
  other.join();
  EXPECT_EQ(emulation::Fiber::NumLive(), before) << "a thread keeps its fibers when it ends";
}

}  // namespace
}  // namespace plait
