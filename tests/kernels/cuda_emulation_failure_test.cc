// Kernels with one planted fault each that CUDA leaves undefined or refuses: the emulation ends the
// process with a message that names the place.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/emulation/scheduler.h"
#include "tests/kernels/emulation_orders.h"

namespace plait {
namespace {

using cuda::LaunchKernel;
using emulation::Dimensions;

constexpr int kThreads = 96;

// Each dies in a program that was started anew.
class CudaEmulationDeathTest : public ::testing::Test {
 protected:
  CudaEmulationDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

// A regular expression of this file and a line.
std::string At(int line) {
  return absl::StrCat("cuda_emulation_failure_test\\.cc:", line, "[^0-9]");
}

enum { kOwnMaskLine = __LINE__ + 1 };
__global__ void OwnMaskKernel() { __syncwarp(threadIdx.x == 7 ? 0xffffff7fu : 0xffffffffu); }
TEST_F(CudaEmulationDeathTest, ALaneOutsideOfItsOwnMask) {
  const emulation::FixedOrder fixed(emulation::Order::kForward);
  EXPECT_DEATH(LaunchKernel(OwnMaskKernel, {2, 3}, {32}, 0, nullptr),
               At(kOwnMaskLine) +
                   ".*thread \\(7, 0, 0\\) of block \\(0, 0, 0\\): lane 7 is not in "
                   "its own mask 0xffffff7f");
}

enum { kExitedLine = __LINE__ + 3 };
__global__ void ExitedKernel(int* out) {
  if (threadIdx.x == 3) return;
  out[threadIdx.x] = __shfl_sync(~0u, out[threadIdx.x], 3);
}
TEST_F(CudaEmulationDeathTest, AShuffleFromALaneThatHasLeft) {
  ForEachOrder(1, [] {
    std::vector<int> out(32);
    EXPECT_DEATH(LaunchKernel(ExitedKernel, {1}, {32}, 0, nullptr, out.data()),
                 At(kExitedLine) + ".*mask 0xffffffff names lane 3, which has left the kernel");
  });
}

__global__ void ExchangeKernel(int width, int* out) {
  out[threadIdx.x] = __shfl_xor_sync(~0u, out[threadIdx.x], 1, width);
}
TEST_F(CudaEmulationDeathTest, AMaskBeyondTheBlock) {
  std::vector<int> out(40);
  EXPECT_DEATH(LaunchKernel(ExchangeKernel, {1}, {40}, 0, nullptr, 32, out.data()),
               "mask 0xffffffff names lane 8, which the block does not have");
}

enum { kOutsideLine = __LINE__ + 3 };
__global__ void OutsideKernel(int* out) {
  if (threadIdx.x >= 16) return;
  out[threadIdx.x] = __shfl_down_sync(0xffffu, out[threadIdx.x], 8);
}
TEST_F(CudaEmulationDeathTest, AShuffleFromALaneOutsideOfTheMask) {
  ForEachOrder(1, [] {
    std::vector<int> out(16);
    EXPECT_DEATH(LaunchKernel(OutsideKernel, {1}, {32}, 0, nullptr, out.data()),
                 At(kOutsideLine) +
                     ".*thread \\(8, 0, 0\\).*shuffle from lane 16, which is not in "
                     "mask 0x0000ffff");
  });
}

enum { kDivergentLine = __LINE__ + 4 };
__global__ void FullMaskInBranchKernel(float* out) {
  float value = out[threadIdx.x];
  if (threadIdx.x % 2 == 0) {
    value = __shfl_xor_sync(~0u, value, 2);
  } else {
    value = __shfl_xor_sync(~0u, value, 4);
  }
  out[threadIdx.x] = value;
}
TEST_F(CudaEmulationDeathTest, AFullMaskInADivergentBranch) {
  ForEachOrder(1, [] {
    std::vector<float> out(32);
    EXPECT_DEATH(LaunchKernel(FullMaskInBranchKernel, {1}, {32}, 0, nullptr, out.data()),
                 "lanes of one mask wait apart, at (.*" + At(kDivergentLine) + ".*" +
                     At(kDivergentLine + 2) + "|.*" + At(kDivergentLine + 2) + ".*" +
                     At(kDivergentLine) + ")");
  });
}

__global__ void PartOfTheWarpKernel() {
  if (threadIdx.x < 20) {
    __syncwarp();
  } else {
    __syncwarp(0xfff00000u);
    __syncwarp(0xfff00000u);
  }
  __syncthreads();
}
TEST_F(CudaEmulationDeathTest, AMaskThatNamesLanesWhichNeverCome) {
  ForEachOrder(1, [] {
    EXPECT_DEATH(LaunchKernel(PartOfTheWarpKernel, {1}, {32}, 0, nullptr),
                 "deadlock, no thread can go on\n"
                 "  threads 0-19 at .*, mask 0xffffffff\n"
                 "  threads 20-31 at .*, block barrier\n");
  });
}

enum { kBarriersLine = __LINE__ + 3 };
__global__ void BarriersKernel() {
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
TEST_F(CudaEmulationDeathTest, BarriersAtDifferentLines) {
  ForEachOrder(1, [] {
    EXPECT_DEATH(
        LaunchKernel(BarriersKernel, {1}, {kThreads}, 0, nullptr),
        absl::StrCat("threads wait at different barriers, .*\n  threads 0-39 at .*:", kBarriersLine,
                     ", block barrier\n  threads 40-95 at .*:", kBarriersLine + 2,
                     ", block barrier\n"));
  });
}

__global__ void EmptyKernel() {}
TEST_F(CudaEmulationDeathTest, BlocksAndGridsBeyondTheDevice) {
  const auto launch = [](Dimensions grid, Dimensions block) {
    LaunchKernel(EmptyKernel, grid, block, 0, nullptr);
  };
  EXPECT_DEATH(launch({1}, {1056}),
               "a block of \\(1056, 1, 1\\) threads; at least 1, at most 1024");
  EXPECT_DEATH(launch({1}, {32, 33}), "a block of \\(32, 33, 1\\) threads");
  EXPECT_DEATH(launch({1}, {2, 1, 65}), "a block of \\(2, 1, 65\\) threads");
  EXPECT_DEATH(launch({1}, {0}), "a block of \\(0, 1, 1\\) threads");
  EXPECT_DEATH(launch({1, 65536}, {1}), "a grid of \\(1, 65536, 1\\) blocks");
  EXPECT_DEATH(launch({1, 1, 65536}, {1}), "a grid of \\(1, 1, 65536\\) blocks");
}

template <int kBytes>
__global__ void SharedBytesKernel(int* out) {
  PLAIT_SHARED(char, bytes, kBytes);
  bytes[threadIdx.x] = 1;
  *out = 1;
}
TEST_F(CudaEmulationDeathTest, SharedMemoryBeyondTheDevice) {
  int out = 0;
  EXPECT_DEATH(LaunchKernel(SharedBytesKernel<49153>, {1}, {1}, 0, nullptr, &out),
               "static shared memory of a block exceeds 48 KiB: 49153 bytes");
  EXPECT_DEATH(LaunchKernel(SharedBytesKernel<1>, {1}, {1}, (227 << 10) + 1, nullptr, &out),
               "dynamic shared memory of a block exceeds 227 KiB: 232449 bytes");
  EXPECT_DEATH(LaunchKernel(SharedBytesKernel<1>, {1}, {1}, 227 << 10, nullptr, &out),
               "exceeds 227 KiB: 1 bytes static and 232448 dynamic");
  LaunchKernel(SharedBytesKernel<48 << 10>, {1}, {1}, 179 << 10, nullptr, &out);
  EXPECT_EQ(out, 1);
}

TEST_F(CudaEmulationDeathTest, AWidthThatIsNoPowerOfTwo) {
  std::vector<int> out(32);
  EXPECT_DEATH(LaunchKernel(ExchangeKernel, {1}, {32}, 0, nullptr, 24, out.data()),
               "thread \\(31, 0, 0\\) of block \\(0, 0, 0\\): a width that is no power of two");
}

#if defined(__SANITIZE_ADDRESS__)  // and UndefinedBehaviorSanitizer, as in the preset

template <int kShared>
__global__ void OffByOneKernel(const float* x, float* out) {
  PLAIT_SHARED(float, fixed, 48);
  PLAIT_DYNAMIC_SHARED(float, dynamic);
  float* const tile = kShared == 0 ? fixed : dynamic;
  const int i = static_cast<int>(threadIdx.x);
  tile[i] = x[i];
  __syncthreads();
  out[i] = kShared < 2 ? tile[i + 1] : x[i + 1];
}
TEST_F(CudaEmulationDeathTest, ReadingOneBeyondSharedAndGlobalMemory) {
  const std::vector<float> x(48);
  std::vector<float> out(48);
  constexpr size_t kBytes = 48 * sizeof(float);
  EXPECT_DEATH(LaunchKernel(OffByOneKernel<0>, {1}, {48}, kBytes, nullptr, x.data(), out.data()),
               "heap-buffer-overflow.*OffByOneKernel<0>.*0 bytes to the right of 192-byte region");
  EXPECT_DEATH(LaunchKernel(OffByOneKernel<1>, {1}, {48}, kBytes, nullptr, x.data(), out.data()),
               "heap-buffer-overflow.*OffByOneKernel<1>.*0 bytes to the right of 192-byte region");
  EXPECT_DEATH(LaunchKernel(OffByOneKernel<2>, {1}, {48}, kBytes, nullptr, x.data(), out.data()),
               "heap-buffer-overflow.*OffByOneKernel<2>.*0 bytes to the right of 192-byte region");
}

__global__ void DanglingKernel(const float** shared, float* out) {
  float local[4] = {1, 2, 3, 4};
  if (threadIdx.x == 0) *shared = local;
  __syncthreads();
  if (threadIdx.x == 0) return;
  __syncthreads();
  *out = **shared;
}
TEST_F(CudaEmulationDeathTest, AStackFrameOfAThreadThatHasLeft) {
  const float* shared = nullptr;
  float out = 0;
  EXPECT_DEATH(LaunchKernel(DanglingKernel, {1}, {2}, 0, nullptr, &shared, &out),
               "stack-use-after-return.*DanglingKernel");
}

__global__ void PackKernel(const float* x, int offset, float* out) {
  const auto* packs = reinterpret_cast<const cuda::Pack<float, 4>*>(x + offset);
  out[threadIdx.x] = packs[threadIdx.x].values[0];
}
TEST_F(CudaEmulationDeathTest, AVectorLoadThatIsNotAligned) {
  alignas(16) const float x[20] = {};
  float out[4];
  LaunchKernel(PackKernel, {1}, {4}, 0, nullptr, +x, 4, +out);
  EXPECT_DEATH(LaunchKernel(PackKernel, {1}, {4}, 0, nullptr, +x, 2, +out), "misaligned address");
}

#endif

}  // namespace
}  // namespace plait
