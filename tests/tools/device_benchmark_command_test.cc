// `plait bench step` and `bench devices` on the emulated device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "recipes/parameter_count.h"
#include "recipes/schema/recipe.pb.h"
#include "tests/support/command_line.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_run.h"

namespace plait {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class DeviceBenchmarkCommandTest : public ::testing::Test {
 protected:
  DeviceBenchmarkCommandTest() : recipe_(folder_.File("tiny.textproto")) {
    cuda::AllowEmulation();
    std::ofstream(recipe_) << TinyRecipeText("unused");
  }

  // bench `name` of the tiny recipe at bf16.
  CommandResult Bench(const std::string& name, std::vector<std::string> more) {
    more.insert(more.begin(), {"bench", name, recipe_, "--set", "trainer.precision=BF16"});
    return RunCommand(more);
  }

  TemporaryFolder folder_;
  std::string recipe_;
};

TEST_F(DeviceBenchmarkCommandTest, AStepHasItsRateItsShareOfThePeakAndItsMemory) {
  const CommandResult result = Bench("step", {"--set", "trainer.device=CUDA", "--steps", "3",
                                              "--warmup", "1", "--peak", "0.5", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const auto answer = nlohmann::json::parse(result.output);
  EXPECT_EQ(answer["device"], "emulated device");
  EXPECT_EQ(answer["step_seconds"].size(), 3u);
  EXPECT_EQ(answer["tokens_per_step"], 64);
  const double median = answer["median_seconds"], flops = answer["model_flops_per_second"];
  EXPECT_DOUBLE_EQ(answer["tokens_per_second"], 64 / median);
  EXPECT_GT(flops, 0);
  EXPECT_EQ(answer["peak_flops_per_second"], 0.5e12);
  EXPECT_DOUBLE_EQ(answer["share_of_peak"], flops / 0.5e12);
  EXPECT_GT(answer["share_of_gemm_peak"], 0);
  // On the device: of each parameter at least its two moments, gradient and master in f32 and its
  // bf16 value.
  ASSERT_OK_AND_ASSIGN(const ParameterCount count, CountParameters(TinyRecipe("unused").model()));
  EXPECT_GT(answer["allocated_bytes_peak"], 18 * count.total);
}

TEST_F(DeviceBenchmarkCommandTest, ADeviceOfNoKnownPeakHasNoShareOfIt) {
  const CommandResult result =
      Bench("step", {"--set", "trainer.device=CUDA", "--steps", "1", "--warmup", "0"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  EXPECT_THAT(result.output, HasSubstr("stage short_rows, emulated device, 1 threads: "));
  EXPECT_THAT(result.output, HasSubstr("of the GEMM peak of "));
  EXPECT_THAT(result.output, Not(HasSubstr("of the device's")));
}

TEST_F(DeviceBenchmarkCommandTest, LossesOfTheDeviceStandBesideTheCpus) {
  const CommandResult result = Bench("devices", {"--steps", "8", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const auto answer = nlohmann::json::parse(result.output);
  EXPECT_EQ(answer["device"], "emulated device");
  EXPECT_EQ(answer["agrees"], true);
  EXPECT_LE(answer["largest_difference"], answer["bound"]);
  EXPECT_EQ(answer["device_losses"].size(), 8u);
  EXPECT_EQ(answer["cpu_losses"].size(), 8u);
  EXPECT_NE(answer["cpu_losses"], answer["cpu_f32_losses"]);
}

}  // namespace
}  // namespace plait
