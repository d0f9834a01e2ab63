// The memory of the emulated device: what is in it, and who may touch it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cuda/device.h"
#include "tests/support/device_execution.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using cuda::LaunchKernel;

constexpr int kThreads = 64;

__global__ void AddOneKernel(float* x, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) x[i] += 1;
}

void AddOne(float* x, int count) {
  EXPECT_EQ(LaunchKernel(AddOneKernel, {4}, {kThreads}, 0, nullptr, x, count), 0);
}

// A tensor's elements at an address that the compiler knows nothing of.
template <class T>
volatile T* Address(Tensor& tensor) {
  return static_cast<volatile T*>(tensor.raw());
}

class CudaDeviceMemoryTest : public ::testing::Test {
 protected:
  CudaDeviceMemoryTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
  Execution& execution_ = *CudaExecution();
};
using CudaDeviceMemoryDeathTest = CudaDeviceMemoryTest;

TEST_F(CudaDeviceMemoryTest, KernelsAndCopiesReachIt) {
  Tensor x = execution_.Zeros(DType::kF32, {200});
  AddOne(x.data<float>(), 200);
  AddOne(x.data<float>(), 199);
  ASSERT_OK_AND_ASSIGN(const Tensor host, execution_.ToHost(x));
  for (int i = 0; i < 200; ++i) EXPECT_EQ(host.data<float>()[i], i < 199 ? 2 : 1) << i;
}

TEST_F(CudaDeviceMemoryTest, WhatNobodyWroteIsNanAlsoInABlockThatIsHandedOutAgain) {
  const void* first = nullptr;
  for (int round = 0; round < 2; ++round) {
    Tensor x = execution_.Empty(DType::kF32, {200});
    if (round == 0) first = x.raw();
    EXPECT_EQ(x.raw(), first);
    ASSERT_OK_AND_ASSIGN(const Tensor host, execution_.ToHost(x));
    for (const float value : host.values<float>()) ASSERT_TRUE(std::isnan(value)) << round;
    ASSERT_OK(execution_.FillZero(x));
  }
}

#if !defined(__SANITIZE_THREAD__)
#if defined(__SANITIZE_ADDRESS__)
constexpr char kTouched[] = "AddressSanitizer: use-after-poison";
#else
constexpr char kTouched[] = "its memory was touched on the host";
#endif

TEST_F(CudaDeviceMemoryDeathTest, TheHostCannotReadIt) {
  Tensor x = execution_.Zeros(DType::kF32, {200});
  EXPECT_DEATH(std::printf("%f", static_cast<double>(*Address<float>(x))), kTouched);
}

TEST_F(CudaDeviceMemoryDeathTest, TheHostCannotWriteItAfterAKernel) {
  Tensor x = execution_.Zeros(DType::kF32, {200});
  AddOne(x.data<float>(), 200);
  EXPECT_DEATH(*Address<float>(x) = 1, kTouched);
}
#endif

#if defined(__SANITIZE_ADDRESS__)
TEST_F(CudaDeviceMemoryDeathTest, AKernelCannotGoBeyondATensor) {
  Tensor x = execution_.Zeros(DType::kF32, {200});
  EXPECT_DEATH(AddOne(x.data<float>(), 201), "use-after-poison.*AddOneKernel");
}

TEST_F(CudaDeviceMemoryDeathTest, AKernelCannotUseATensorThatIsGone) {
  float* gone = execution_.Zeros(DType::kF32, {200}).data<float>();
  EXPECT_DEATH(AddOne(gone, 200), "use-after-poison.*AddOneKernel");
}

TEST_F(CudaDeviceMemoryDeathTest, ACopyCannotGoBeyondATensor) {
  Tensor x = execution_.Empty(DType::kF32, {200}), larger = Tensor::OnHost(DType::kF32, {204});
  EXPECT_DEATH((void)execution_.runtime()->Copy(x.raw(), larger.raw(), larger.bytes(), nullptr),
               "use-after-poison");
}
#endif

}  // namespace
}  // namespace plait
