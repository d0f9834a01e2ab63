#include "base/tensor.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/allocator.h"
#include "base/execution.h"

namespace plait {
namespace {

TEST(TensorTest, SlicesReshapesAndColumnsShareStorage) {
  Tensor tensor = Tensor::FromValues<float>({3, 4}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  Tensor slice = tensor.Slice(1, 3);
  EXPECT_EQ(slice.shape(), Shape({2, 4}));
  EXPECT_EQ(slice.data<float>()[0], 4);
  slice.data<float>()[0] = 40;
  EXPECT_EQ(tensor.data<float>()[4], 40);
  const MatrixView right = tensor.columns(2, 2);
  EXPECT_EQ(right.columns, 2);
  EXPECT_EQ(right.row_stride, 4);
  EXPECT_EQ(right.row<float>(1)[1], 7);
  EXPECT_EQ(tensor.Reshape({2, 6}).data<float>()[6], 6);
  EXPECT_EQ(tensor.Flat(5, {2}).data<float>()[1], 6);
}

TEST(TensorTest, CloneIsIndependent) {
  Tensor tensor = Tensor::FromValues<float>({2}, {1, 2});
  const Tensor copy = tensor.Clone();
  tensor.data<float>()[0] = 9;
  EXPECT_EQ(copy.data<float>()[0], 1);
}

TEST(TensorTest, ConvertedRoundsOnce) {
  const Tensor wide = Tensor::FromValues<double>({2}, {1.0 + 0x1.02p-8, 3.0});
  EXPECT_EQ(static_cast<float>(wide.Converted(DType::kBf16).data<BFloat16>()[0]), 1.0f + 0x1.0p-7f);
  EXPECT_EQ(wide.Converted(DType::kF32).data<float>()[1], 3.0f);
}

TEST(AllocatorTest, FreedBlocksAreHandedOutAgain) {
  Execution execution;
  const void* first = nullptr;
  {
    const Tensor tensor = execution.Empty(DType::kF32, {1000});
    first = tensor.raw();
    EXPECT_GE(execution.allocator().bytes_in_use(), 4000u);
  }
  EXPECT_EQ(execution.allocator().bytes_in_use(), 0u);
  EXPECT_EQ(execution.Empty(DType::kF32, {1000}).raw(), first);
  EXPECT_GE(execution.allocator().bytes_in_use_peak(), 4000u);
}

TEST(AllocatorTest, HostMemoryComesFromItsSource) {
  static int64_t taken, given_back;
  taken = given_back = 0;
  SetHostMemorySource({[](size_t bytes) -> void* {
                         ++taken;
                         EXPECT_EQ(bytes % 64, 0u);
                         return std::memset(std::aligned_alloc(64, bytes), 0xff, bytes);
                       },
                       [](void* block) {
                         ++given_back;
                         std::free(block);
                       }});
  {
    Execution execution;
    const Tensor own = Tensor::OnHost(DType::kF32, {1000});
    EXPECT_EQ(own.data<float>()[999], 0);
    EXPECT_EQ(taken, 1);
    const Tensor cached = execution.Empty(DType::kF32, {1000});
    EXPECT_EQ(taken, 2);
  }
  EXPECT_EQ(given_back, 2);
  SetHostMemorySource({[](size_t bytes) { return std::aligned_alloc(64, bytes); }, std::free});
}

TEST(AllocatorTest, TensorsOutliveTheirExecution) {
  Tensor tensor;
  {
    Execution execution;
    tensor = execution.Zeros(DType::kF32, {64});
  }
  EXPECT_EQ(tensor.data<float>()[63], 0);
}

TEST(AllocatorTest, ThreadsMayAllocateAtOnce) {
  const auto allocator = Allocator::Create();
  const auto work = [&] {
    for (int i = 1; i < 2000; ++i) Tensor::Empty(*allocator, DType::kF32, {i % 97 + 1});
  };
  std::thread other(work);
  work();
  other.join();
  EXPECT_EQ(allocator->bytes_in_use(), 0u);
}

TEST(ExecutionTest, CachesKeepOneObjectPerType) {
  struct Counter {
    int value = 0;
  };
  Execution execution;
  execution.Cache<Counter>().value = 5;
  EXPECT_EQ(execution.Cache<Counter>().value, 5);
  EXPECT_GE(execution.num_threads(), 1);
}

}  // namespace
}  // namespace plait
