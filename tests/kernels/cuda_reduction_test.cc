#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cuda/reduction.h"
#include "tests/kernels/emulation_orders.h"

namespace plait {
namespace {

template <class A>
struct Results {
  A warp_sum, warp_max, block_sum, block_max, block_sum_of_squares;
};

template <class A>
__global__ void ReduceKernel(const A* x, Results<A>* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const A value = x[i];
  out[i] = {cuda::WarpSum(value), cuda::WarpMax(value), cuda::BlockSum(value),
            cuda::BlockMax(value), cuda::BlockSum(value * value)};
}

// Small integers, so that sums are exact in any order; negative ones, so that no maximum is a zero
// that nobody gave.
template <class A>
std::vector<A> Values(size_t count) {
  std::vector<A> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<A>(i * 37 % 101) - 110;
  return values;
}

template <class A>
void ExpectReductionsMatchLoops(size_t threads) {
  constexpr size_t kBlocks = 2;
  const std::vector<A> x = Values<A>(kBlocks * threads);
  std::vector<Results<A>> out(x.size());
  cuda::LaunchKernel(ReduceKernel<A>, {kBlocks}, {static_cast<unsigned>(threads)}, 0, nullptr,
                     x.data(), out.data());
  for (size_t i = 0; i < x.size(); ++i) {
    const auto over = [&](size_t width) {
      Results<A> sums{0, -1000, 0, 0, 0};
      for (size_t j = i / width * width; j < i / width * width + width; ++j) {
        sums.warp_sum += x[j];
        sums.warp_max = std::max(sums.warp_max, x[j]);
        sums.block_sum_of_squares += x[j] * x[j];
      }
      return sums;
    };
    const Results<A> warp = over(32), block = over(threads);
    ASSERT_EQ(out[i].warp_sum, warp.warp_sum) << i;
    ASSERT_EQ(out[i].warp_max, warp.warp_max) << i;
    ASSERT_EQ(out[i].block_sum, block.warp_sum) << i;
    ASSERT_EQ(out[i].block_max, block.warp_max) << i;
    ASSERT_EQ(out[i].block_sum_of_squares, block.block_sum_of_squares) << i;
  }
}

TEST(CudaReductionTest, SumsAndMaximaMatchLoopsForEveryNumberOfWarps) {
  ForEachOrder(1, [] {
    for (const size_t threads : {32, 64, 96, 1024}) {
      SCOPED_TRACE(threads);
      ExpectReductionsMatchLoops<float>(threads);
      ExpectReductionsMatchLoops<double>(threads);
    }
  });
}

TEST(CudaReductionTest, AllThreadsGetNanWhereverItWas) {
  for (const size_t at : {0, 1, 31, 32, 95}) {
    std::vector<float> x = Values<float>(96);
    x[at] = std::numeric_limits<float>::quiet_NaN();
    std::vector<Results<float>> out(x.size());
    cuda::LaunchKernel(ReduceKernel<float>, {1}, {96}, 0, nullptr, x.data(), out.data());
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_TRUE(std::isnan(out[i].block_max)) << at << ", " << i;
      EXPECT_TRUE(std::isnan(out[i].block_sum)) << at << ", " << i;
      EXPECT_EQ(std::isnan(out[i].warp_max), i / 32 == at / 32) << at << ", " << i;
    }
  }
}

// Sums of floats that are not integers, too: the order depends on the number of threads alone.
TEST(CudaReductionTest, BitsRepeatInEveryOrder) {
  std::vector<float> x = Values<float>(3 * 96);
  for (float& value : x) value /= 7;
  std::vector<float> first;
  ForEachOrder(4, [&] {
    std::vector<Results<float>> out(x.size());
    cuda::LaunchKernel(ReduceKernel<float>, {3}, {96}, 0, nullptr, x.data(), out.data());
    std::vector<float> sums;
    for (const Results<float>& result : out) sums.push_back(result.block_sum);
    if (first.empty()) first = sums;
    EXPECT_EQ(sums, first);
  });
}

}  // namespace
}  // namespace plait
