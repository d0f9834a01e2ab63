#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/device_copies.h"
#include "tests/support/device_execution.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

class CudaDeviceCopiesTest : public ::testing::Test {
 protected:
  CudaDeviceCopiesTest()
      : runtime_(CudaExecution()->runtime()),
        execution_({.device = {DeviceKind::kCuda, 0}, .runtime = runtime_}) {}

  const int32_t* Copy(const std::vector<int32_t>& values) {
    const auto copy =
        cuda::DeviceCopy(execution_, values.data(), static_cast<int64_t>(values.size()));
    EXPECT_OK(copy);
    return *copy;
  }
  std::vector<int32_t> OnHost(const int32_t* copy, size_t count) {
    std::vector<int32_t> values(count);
    StreamHandle stream = execution_.compute().handle();
    EXPECT_OK(runtime_->Copy(values.data(), copy, count * sizeof(int32_t), stream));
    EXPECT_OK(runtime_->Synchronize(stream));
    return values;
  }

  std::shared_ptr<DeviceRuntime> runtime_;
  Execution execution_;
};

TEST_F(CudaDeviceCopiesTest, HasTheValuesAlsoWhenTheHostsAreGone) {
  const int32_t* copy = nullptr;
  {
    std::vector<int32_t> values = {0, 3, 7, 1000000000};
    copy = Copy(values);
    values.assign(4, -1);
  }
  EXPECT_EQ(OnHost(copy, 4), (std::vector<int32_t>{0, 3, 7, 1000000000}));
}

TEST_F(CudaDeviceCopiesTest, OneContentIsUploadedOnce) {
  const std::vector<int32_t> values = {0, 3, 7}, same = values;
  const int32_t* copy = Copy(values);
  const size_t held = execution_.allocator().bytes_in_use();
  EXPECT_EQ(Copy(same), copy);
  EXPECT_EQ(execution_.allocator().bytes_in_use(), held);
  EXPECT_NE(Copy({0, 3, 8}), copy);
  EXPECT_NE(Copy({0, 3}), copy);
}

TEST_F(CudaDeviceCopiesTest, MoreContentsThanItKeepsAreRightAndTheOldMakeRoom) {
  const auto values = [](int32_t i) { return std::vector<int32_t>{i, 2 * i, 3 * i}; };
  for (int32_t i = 0; i < 1500; ++i) ASSERT_EQ(OnHost(Copy(values(i)), 3), values(i)) << i;
  // Twice 256 blocks of 64 bytes.
  EXPECT_LE(execution_.allocator().bytes_in_use_peak(), 2u * 256u * 64u);
  for (const int32_t i : {0, 999, 1499}) EXPECT_EQ(OnHost(Copy(values(i)), 3), values(i));
}

TEST_F(CudaDeviceCopiesTest, ACopyIsGoodFor256FurtherCalls) {
  for (const int32_t i : {0, 1, 2, 3, 4}) {
    const int32_t* copy = Copy({i});
    for (int32_t j = 1; j <= 256; ++j) Copy({i, j});
    ASSERT_EQ(OnHost(copy, 1), std::vector<int32_t>{i}) << i;
  }
}

TEST_F(CudaDeviceCopiesTest, WhatIsUsedAgainStays) {
  const int32_t* copy = Copy({-7});
  for (int32_t i = 0; i < 2000; ++i) {
    Copy({i});
    if (i % 200 == 0) {
      ASSERT_EQ(Copy({-7}), copy);
    }
  }
}

TEST_F(CudaDeviceCopiesTest, ExecutionsKeepTheirOwn) {
  Execution other({.device = {DeviceKind::kCuda, 0}, .runtime = runtime_});
  const std::vector<int32_t> values = {4, 5};
  ASSERT_OK_AND_ASSIGN(const int32_t* copy, cuda::DeviceCopy(other, values.data(), 2));
  EXPECT_NE(Copy(values), copy);
}

}  // namespace
}  // namespace plait
