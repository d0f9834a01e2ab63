#include "trainer/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/durable_file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::vector<nlohmann::json> Lines(const std::string& path) {
  std::vector<nlohmann::json> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

StepMetrics SomeStep(int64_t step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.stage = "short_rows";
  metrics.result.counts.real_tokens = 100;
  metrics.result.language_model_loss = 2.5;
  metrics.result.z_loss = 0.25;
  metrics.result.watch.experts.push_back({.name = "model.layers.1.feed_forward",
                                          .tokens = {3, 1},
                                          .square_sum = {1, 4},
                                          .absolute_max = {2, 5},
                                          .largest_rank_load = 1.75,
                                          .waves = 5,
                                          .recomputed_waves = 2});
  metrics.result.watch.blocks.push_back({"model.layers.0.mamba", 8, 2, 7});
  metrics.step_seconds = 0.5;
  metrics.model_flops = 1e9;
  metrics.gemm_peak_flops_per_second = 1e10;
  return metrics;
}

class MetricsTest : public ::testing::Test {
 protected:
  std::string path() const { return folder_.File("metrics.jsonl"); }
  TemporaryFolder folder_;
};

TEST_F(MetricsTest, AStepLineHoldsItsNumbers) {
  ASSERT_OK_AND_ASSIGN(MetricsFile file, MetricsFile::Open(path(), 0));
  ASSERT_OK(file.WriteStep(SomeStep(3)));
  const nlohmann::json line = Lines(path()).at(0);
  EXPECT_EQ(line["event"], "step");
  EXPECT_EQ(line["step"], 3);
  EXPECT_EQ(line["loss"], 2.75);
  EXPECT_EQ(line["language_model_loss"], 2.5);
  EXPECT_EQ(line["tokens_per_second"], 200);
  EXPECT_EQ(line["model_flops_per_second"], 2e9);
  EXPECT_EQ(line["share_of_gemm_peak"], 0.2);
  EXPECT_EQ(line["tokens_per_expert"]["model.layers.1.feed_forward"],
            nlohmann::json::array({3, 1}));
  EXPECT_EQ(
      line["expert_load"]["model.layers.1.feed_forward"],
      nlohmann::json({{"expert", 1.5}, {"rank", 1.75}, {"waves", 5}, {"recomputed_waves", 2}}));
  EXPECT_EQ(line["activations"]["model.layers.0.mamba"]["max"], 7);
  EXPECT_EQ(line["activations"]["model.layers.0.mamba"]["rms"], 2);
  EXPECT_EQ(line["activations"]["model.layers.1.feed_forward.experts"]["max"],
            nlohmann::json::array({2, 5}));
}

TEST_F(MetricsTest, ExpertsOnOneRankHaveNoWaves) {
  StepMetrics metrics = SomeStep(3);
  metrics.result.watch.experts[0].largest_rank_load = 0;
  ASSERT_OK_AND_ASSIGN(MetricsFile file, MetricsFile::Open(path(), 0));
  ASSERT_OK(file.WriteStep(metrics));
  EXPECT_EQ(Lines(path()).at(0)["expert_load"]["model.layers.1.feed_forward"],
            nlohmann::json({{"expert", 1.5}}));
}

TEST_F(MetricsTest, ANumberThatIsNotFiniteIsNull) {
  StepMetrics metrics = SomeStep(1);
  metrics.result.gradient_norm = std::nan("");
  metrics.result.not_finite = "gradient of lm_head.weight";
  ASSERT_OK_AND_ASSIGN(MetricsFile file, MetricsFile::Open(path(), 0));
  ASSERT_OK(file.WriteStep(metrics));
  EXPECT_TRUE(Lines(path()).at(0)["gradient_norm"].is_null());
  EXPECT_EQ(Lines(path()).at(0)["not_finite"], "gradient of lm_head.weight");
}

TEST_F(MetricsTest, ResumingCutsTheFileBackToItsStep) {
  {
    ASSERT_OK_AND_ASSIGN(MetricsFile file, MetricsFile::Open(path(), 0));
    for (int64_t step : {1, 2, 3}) ASSERT_OK(file.WriteStep(SomeStep(step)));
  }
  std::ofstream(path(), std::ios::app) << "{\"event\":\"step\",\"step\":2,\"lo";  // killed here
  ASSERT_OK_AND_ASSIGN(MetricsFile file, MetricsFile::Open(path(), 2));
  ASSERT_OK(file.WriteStop(2, "finished"));
  const auto lines = Lines(path());
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[1]["step"], 2);
  EXPECT_EQ(lines[2]["event"], "stop");
}

TEST_F(MetricsTest, StartingAnewEmptiesTheFile) {
  ASSERT_OK(WriteFileDurably(path(), "{\"event\":\"start\",\"step\":0}\n"));
  ASSERT_OK(MetricsFile::Open(path(), 0));
  EXPECT_TRUE(Lines(path()).empty());
}

TEST_F(MetricsTest, AFolderThatIsNotThereIsNamed) {
  EXPECT_THAT(MetricsFile::Open(folder_.File("absent/metrics.jsonl"), 0),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("absent/metrics.jsonl")));
}

TEST_F(MetricsTest, TheConsoleLineHasTheMostImportant) {
  EXPECT_THAT(ConsoleLine(SomeStep(20), 500),
              HasSubstr("step 20/500 short_rows  loss 2.7500 (lm 2.5000)"));
}

TEST_F(MetricsTest, TheMemoryOfADeviceIsTold) {
  StepMetrics metrics = SomeStep(3);
  metrics.memory_bytes = int64_t{300} << 20;
  metrics.allocated_bytes_peak = int64_t{5000} << 20;
  EXPECT_THAT(ConsoleLine(metrics, 500), HasSubstr("  300 MB  wait"));
  metrics.device = DeviceKind::kCuda;
  metrics.pinned_bytes_peak = 1 << 16;
  metrics.reserved_bytes_peak = int64_t{5100} << 20;
  EXPECT_THAT(ConsoleLine(metrics, 500), HasSubstr("  300 MB, device 5000 MB  wait"));
  ASSERT_OK_AND_ASSIGN(MetricsFile file, MetricsFile::Open(path(), 0));
  ASSERT_OK(file.WriteStep(metrics));
  const nlohmann::json line = Lines(path()).at(0);
  EXPECT_EQ(line["memory_bytes"], int64_t{300} << 20);
  EXPECT_EQ(line["allocated_bytes_peak"], int64_t{5000} << 20);
  EXPECT_EQ(line["pinned_bytes_peak"], 1 << 16);
  EXPECT_EQ(line["reserved_bytes_peak"], int64_t{5100} << 20);
}

TEST_F(MetricsTest, TheConsoleLineOfSeveralRanksHasTheirShareOfWaiting) {
  StepMetrics metrics = SomeStep(20);
  metrics.communication_wait_seconds = 0.006;
  EXPECT_THAT(ConsoleLine(metrics, 500), Not(HasSubstr("comm")));
  metrics.num_ranks = 2;
  EXPECT_THAT(ConsoleLine(metrics, 500), HasSubstr("  comm 1.2 %"));
}

TEST_F(MetricsTest, TheProgressLineSaysHowLongItTakes) {
  EXPECT_EQ(ProgressLine(SomeStep(20), 500, 3723.5),
            "step 20/500 4.0 %  loss 2.7500  200 tokens/s  1:02:04 left");
}

}  // namespace
}  // namespace plait
