// Whole runs on the stages of a pipeline: the same parameters and metrics as on one stage, and
// checkpoints that go on under any other layout.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "base/durable_file.h"
#include "base/status_macros.h"
#include "parallel/local_communicator.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_run.h"
#include "trainer/trainer.h"

namespace plait {
namespace {

struct PipelineLayout {
  int stages = 1;
  int data_parallel = 1;
  int chunks = 1;
  int replicate = 1;  // of the data-parallel ranks

  int ranks() const { return stages * data_parallel; }
  std::string ToString() const {
    return std::to_string(stages) + "x" + std::to_string(data_parallel) + "x" +
           std::to_string(chunks) + "x" + std::to_string(replicate);
  }
};

// Seven steps of 12 microbatches, in two stages of training; every loss that there is.
std::vector<std::string> Settings(const std::string& precision) {
  return {"model.tied_embeddings=false",
          "model.activation_loss.sites=BLOCK_OUTPUT,EXPERT_OUTPUT,RESIDUAL",
          "model.activation_loss.coefficient=0.1",
          "model.experts.balance_loss_coefficient=0.1",
          "stages.0.tokens_per_step=384",
          "stages.1.tokens_per_step=768",
          "parallel.reduction=CANONICAL",
          "trainer.precision=" + precision};
}

absl::Status TrainOn(const TinyData& data, const std::string& output,
                     std::vector<std::string> settings, const PipelineLayout& layout,
                     bool resume = false) {
  settings.push_back("parallel.pipeline=" + std::to_string(layout.stages));
  settings.push_back("parallel.pipeline_chunks=" + std::to_string(layout.chunks));
  settings.push_back("parallel.replicate=" + std::to_string(layout.replicate));
  const recipe::v1::Recipe recipe = TinyRecipe(data.path(), settings, layout.ranks());
  return RunLocalRanks(
      layout.ranks(), [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
        world->ledger().set_check(true);
        PLAIT_ASSIGN_OR_RETURN(
            const auto trainer,
            Trainer::Create(recipe,
                            {.output = data.File(output), .resume = resume, .world = world}));
        return trainer->Run().status();
      });
}

// Every value of these keys in the run's metrics, in their order: what does not depend on time or
// the number of ranks. Empty where there is no file.
std::map<std::string, std::vector<std::string>> MetricsOf(const TinyData& data,
                                                          const std::string& output) {
  std::map<std::string, std::vector<std::string>> values;
  const absl::StatusOr<std::string> text =
      ReadWholeFile(data.File(output) + "/metrics.jsonl", 1 << 24);
  if (!text.ok()) return values;
  for (const std::string name :
       {"loss", "language_model_loss", "balance_loss", "z_loss", "activation_loss", "gradient_norm",
        "bits_per_byte", "tokens", "parameters", "parameter_digest"}) {
    const std::string key = "\"" + name + "\":";
    for (size_t at = text->find(key); at != std::string::npos; at = text->find(key, at + 1)) {
      const size_t begin = at + key.size();
      values[name].push_back(text->substr(begin, text->find_first_of(",}\n", begin) - begin));
    }
  }
  return values;
}

class PipelineRunTest : public ::testing::TestWithParam<const char*> {};

// The Jamba model of 6 blocks in up to 6 parts. Digests are of all parameters after every
// checkpoint; losses are compared to the digit.
TEST_P(PipelineRunTest, EveryLayoutEndsWithTheSameParametersAndMetrics) {
  const TinyData data;
  ASSERT_OK(TrainOn(data, "one", Settings(GetParam()), {}));
  const auto expected = MetricsOf(data, "one");
  ASSERT_EQ(expected.at("parameter_digest").size(), 2u);
  ASSERT_EQ(expected.at("gradient_norm").size(), 7u);
  ASSERT_GE(expected.at("bits_per_byte").size(), 2u);
  std::vector<PipelineLayout> layouts = {{1, 3},    {2, 2, 1, 2}, {3, 2},   {6, 1},
                                         {2, 1, 2}, {2, 2, 3},    {3, 1, 2}};
  for (int data_parallel = 1; data_parallel <= 4; ++data_parallel) {
    layouts.push_back({2, data_parallel});
  }
  for (const PipelineLayout& layout : layouts) {
    ASSERT_OK(TrainOn(data, layout.ToString(), Settings(GetParam()), layout));
    EXPECT_EQ(MetricsOf(data, layout.ToString()), expected) << layout.ToString();
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, PipelineRunTest, ::testing::Values("F32", "BF16"),
                         [](const auto& tested) { return std::string(tested.param); });

TEST(PipelineResumeTest, StoppedOnTwoStagesResumedOnOneThenOnThree) {
  const TinyData data;
  const std::vector<std::string> settings = Settings("BF16");
  ASSERT_OK(TrainOn(data, "whole", settings, {}));
  std::vector<std::string> first = settings, second = settings;
  first.push_back("debug.stop_after_steps=2");
  second.push_back("debug.stop_after_steps=5");
  ASSERT_OK(TrainOn(data, "parts", first, {.stages = 2, .data_parallel = 2}));
  ASSERT_OK(TrainOn(data, "parts", second, {}, /*resume=*/true));
  ASSERT_OK(TrainOn(data, "parts", settings, {.stages = 3, .chunks = 2}, /*resume=*/true));
  EXPECT_EQ(MetricsOf(data, "parts").at("parameter_digest").back(),
            MetricsOf(data, "whole").at("parameter_digest").back());
}

// The default reduction adds up a rank's microbatches in their order, on any stage.
TEST(PipelineResumeTest, OneRankAStageNeedsNoCanonicalReduction) {
  const TinyData data;
  std::vector<std::string> settings = Settings("F32");
  settings.push_back("parallel.reduction=DEFAULT");
  ASSERT_OK(TrainOn(data, "one", settings, {}));
  for (const char* recomputation : {"NONE", "BLOCKS"}) {
    settings.push_back(std::string("trainer.recomputation=") + recomputation);
    const std::string output = std::string("two") + recomputation;
    ASSERT_OK(TrainOn(data, output, settings, {.stages = 2}));
    EXPECT_EQ(MetricsOf(data, output), MetricsOf(data, "one")) << recomputation;
  }
}

}  // namespace
}  // namespace plait
