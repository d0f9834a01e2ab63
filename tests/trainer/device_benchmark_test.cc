#include "trainer/device_benchmark.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "kernels/cuda/runtime.h"
#include "recipes/schema/recipe.pb.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_run.h"

namespace plait {
namespace {

using ::testing::HasSubstr;
using Steps = DeviceBenchmarkResult::Run;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(DeviceBenchmarkTest, TheBoundIsFiveDeviationsOfTwoRunsDifference) {
  const Steps exact{.losses = {4, 3, 2, 1}};
  const Steps cpu{.losses = {4, 3.1, 1.9, 1.2}};  // sigma^2 = (0.01 + 0.01 + 0.04) / 4
  const double bound = 5 * std::sqrt(2 * 0.015);
  const auto within =
      DeviceBenchmarkResult::Compare(exact, cpu, {.losses = {4.1, 3.1, 1.9 - 0.99 * bound, 1.2}});
  EXPECT_NEAR(within.bound, bound, 1e-12);
  EXPECT_NEAR(within.largest_difference, 0.99 * bound, 1e-12);
  EXPECT_EQ(within.largest_at, 2);
  EXPECT_TRUE(within.Agrees());
  EXPECT_FALSE(
      DeviceBenchmarkResult::Compare(exact, cpu, {.losses = {4.1, 3.1, 1.9, 1.2 + 1.01 * bound}})
          .Agrees());
}

TEST(DeviceBenchmarkTest, ALossThatIsNotFiniteNeverAgrees) {
  const Steps exact{.losses = {4, 3, 2}}, cpu{.losses = {4.1, 3.1, 2.1}};
  const auto broken = DeviceBenchmarkResult::Compare(exact, cpu, {.losses = {4.1, kNan, 2.1}});
  EXPECT_FALSE(broken.Agrees());
  EXPECT_EQ(broken.largest_at, 1);
  EXPECT_FALSE(DeviceBenchmarkResult::Compare(exact, {.losses = {4.1, kNan, 2.1}}, cpu).Agrees());
  EXPECT_FALSE(DeviceBenchmarkResult::Compare({.losses = {4, kNan, 2}}, cpu, cpu).Agrees());
}

TEST(DeviceBenchmarkTest, RefusesAStageThatIsNotThere) {
  EXPECT_THAT(BenchmarkDevices(TinyRecipe("unused"), {.stage = 2}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("stages 0 to 1")));
}

// On the emulated device: its losses agree, and those of a run whose updates are a tenth larger do
// not.
TEST(DeviceBenchmarkTest, EqualUpdatesAgreeAndOthersDoNot) {
  cuda::AllowEmulation();
  constexpr int kSteps = 12;
  const std::string one_microbatch = "stages.0.tokens_per_step=32";
  ASSERT_OK_AND_ASSIGN(const DeviceBenchmarkResult result,
                       BenchmarkDevices(TinyRecipe("unused", {one_microbatch}), {.steps = kSteps}));
  EXPECT_EQ(result.device, "emulated device");
  ASSERT_EQ(result.on_device.losses.size(), size_t{kSteps});
  EXPECT_TRUE(result.Agrees()) << result.largest_difference << " at " << result.largest_at
                               << ", bound " << result.bound;
  EXPECT_LT(result.on_device.losses.back(), 0.9 * result.on_device.losses.front());
  EXPECT_GT(result.on_device.median_seconds, 0);
  ASSERT_OK_AND_ASSIGN(
      const DeviceBenchmarkResult other,
      BenchmarkDevices(
          TinyRecipe("unused", {one_microbatch, "stages.0.schedule.learning_rate_peak=1.1e-2"}),
          {.steps = kSteps}));
  const auto compared = DeviceBenchmarkResult::Compare(result.cpu_f32, result.cpu, other.on_device);
  EXPECT_FALSE(compared.Agrees());
}

}  // namespace
}  // namespace plait
