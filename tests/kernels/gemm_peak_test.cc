#include "kernels/gemm_peak.h"

#include <algorithm>

#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

TEST(GemmPeakTest, BestIsTheLargestRateOfTheShapes) {
  Execution execution({.num_threads = 1});
  ASSERT_OK_AND_ASSIGN(const GemmPeak peak,
                       MeasureGemmPeak(execution, DType::kF32, /*seconds_per_shape=*/0.001));
  ASSERT_FALSE(peak.rates.empty());
  double largest = 0;
  for (const GemmRate& rate : peak.rates) {
    EXPECT_GT(rate.flops_per_second, 0) << rate.m << " x " << rate.n << " x " << rate.k;
    largest = std::max(largest, rate.flops_per_second);
  }
  EXPECT_EQ(peak.best_flops_per_second, largest);
}

TEST(GemmPeakTest, RejectsF64) {
  Execution execution;
  EXPECT_THAT(
      MeasureGemmPeak(execution, DType::kF64),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("expected bf16 or f32, got f64")));
}

}  // namespace
}  // namespace plait
