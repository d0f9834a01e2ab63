// Whole runs on several ranks: the same parameters for every number of ranks with the canonical
// reduction, stopped and resumed on others, and failures that all ranks tell alike.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>

#include "base/durable_file.h"
#include "base/exit_code.h"
#include "base/status_macros.h"
#include "parallel/local_communicator.h"
#include "parallel/status_agreement.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_run.h"
#include "trainer/trainer.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

// 50 steps of 12 microbatches, in two stages.
std::vector<std::string> FiftySteps(const std::string& precision) {
  return {"stages.0.steps=30",
          "stages.0.tokens_per_step=384",
          "stages.1.steps=20",
          "stages.1.tokens_per_step=768",
          "parallel.reduction=CANONICAL",
          "trainer.precision=" + precision};
}

struct RankedRun {
  int ranks = 1;
  std::vector<std::string> overrides = {};
  bool resume = false;
};

absl::Status TrainOn(const TinyData& data, const std::string& output, const RankedRun& run) {
  const recipe::v1::Recipe recipe = TinyRecipe(data.path(), run.overrides, run.ranks);
  return RunLocalRanks(run.ranks, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(const auto trainer, Trainer::Create(recipe, {.output = data.File(output),
                                                                        .resume = run.resume,
                                                                        .world = world}));
    return trainer->Run().status();
  });
}

// The last digest that the run has written.
std::string LastDigest(const TinyData& data, const std::string& output) {
  const absl::StatusOr<std::string> text =
      ReadWholeFile(data.File(output) + "/metrics.jsonl", 1 << 24);
  if (!text.ok()) return std::string(text.status().message());
  const std::string key = "\"parameter_digest\":\"";
  const size_t at = text->rfind(key);
  return at == std::string::npos ? "none" : text->substr(at + key.size(), 32);
}

TEST(RankedRunTest, AnyNumberOfRanksEndsWithTheSameParameters) {
  const TinyData data;
  for (const std::string precision : {"BF16", "F32"}) {
    ASSERT_OK(TrainOn(data, precision + "1", {.ranks = 1, .overrides = FiftySteps(precision)}));
    const std::string expected = LastDigest(data, precision + "1");
    ASSERT_EQ(expected.size(), 32u) << expected;
    for (const int ranks : {2, 3, 4, 6}) {
      const std::string output = precision + std::to_string(ranks);
      ASSERT_OK(TrainOn(data, output, {.ranks = ranks, .overrides = FiftySteps(precision)}));
      EXPECT_EQ(LastDigest(data, output), expected) << precision << " on " << ranks;
    }
  }
}

TEST(RankedRunTest, StoppedOnFourResumedOnThreeThenOnOne) {
  const TinyData data;
  ASSERT_OK(TrainOn(data, "whole", {.ranks = 1, .overrides = FiftySteps("BF16")}));
  std::vector<std::string> first = FiftySteps("BF16"), second = FiftySteps("BF16");
  first.push_back("debug.stop_after_steps=17");
  second.push_back("debug.stop_after_steps=33");
  second.push_back("parallel.replicate=3");
  first.push_back("parallel.replicate=2");
  ASSERT_OK(TrainOn(data, "parts", {.ranks = 4, .overrides = first}));
  ASSERT_OK(TrainOn(data, "parts", {.ranks = 3, .overrides = second, .resume = true}));
  ASSERT_OK(TrainOn(data, "parts", {.ranks = 1, .overrides = FiftySteps("BF16"), .resume = true}));
  EXPECT_EQ(LastDigest(data, "parts"), LastDigest(data, "whole"));
}

// The losses of the run's steps, and its text.
struct Metrics {
  std::string text;
  std::vector<double> losses;
};

Metrics MetricsOf(const TinyData& data, const std::string& output) {
  const auto text = ReadWholeFile(data.File(output) + "/metrics.jsonl", 1 << 24);
  PLAIT_CHECK(text.ok());
  Metrics metrics{.text = *text, .losses = {}};
  const std::string key = "\"loss\":";
  for (size_t at = text->find(key); at != std::string::npos; at = text->find(key, at + 1)) {
    metrics.losses.push_back(std::strtod(text->c_str() + at + key.size(), nullptr));
  }
  return metrics;
}

// Sums are taken in another order: f64 keeps the curve of one rank to far below what a wrong weight
// would change.
TEST(RankedRunTest, DealtExpertsStopAndGoOnUnderOtherLayouts) {
  const TinyData data;
  const auto settings = [](std::vector<std::string> more) {
    more.insert(more.end(), {"trainer.precision=F64", "stages.0.tokens_per_step=128",
                             "stages.1.tokens_per_step=256", "model.attention.kv_heads=2"});
    return more;
  };
  ASSERT_OK(TrainOn(data, "whole", {.ranks = 1, .overrides = settings({})}));
  ASSERT_OK(TrainOn(data, "parts",
                    {.ranks = 4,
                     .overrides = settings({"debug.stop_after_steps=2", "parallel.expert=2",
                                            "parallel.expert_wave_tokens=4"})}));
  ASSERT_OK(TrainOn(data, "parts",
                    {.ranks = 4,
                     .overrides = settings({"debug.stop_after_steps=5", "parallel.tensor=2"}),
                     .resume = true}));
  ASSERT_OK(TrainOn(data, "parts", {.ranks = 1, .overrides = settings({}), .resume = true}));
  const Metrics whole = MetricsOf(data, "whole"), parts = MetricsOf(data, "parts");
  ASSERT_EQ(whole.losses.size(), parts.losses.size());
  ASSERT_GE(whole.losses.size(), 7u);
  for (size_t i = 0; i < whole.losses.size(); ++i) {
    EXPECT_NEAR(parts.losses[i], whole.losses[i], 1e-9 * whole.losses[i]) << i;
  }
  EXPECT_THAT(parts.text, HasSubstr("\"recomputed_waves\":0"));
  EXPECT_THAT(whole.text, ::testing::Not(HasSubstr("recomputed_waves")));
}

// The default reduction: the same layout repeats itself bit for bit, across a stop too.
TEST(RankedRunTest, StopAndResumeOnTheSameLayoutChangesNoBit) {
  const TinyData data;
  for (const char* transport : {"AUTO", "MESSAGES"}) {
    const std::vector<std::string> settings = {
        "parallel.replicate=2", "stages.0.tokens_per_step=128", "stages.1.tokens_per_step=256",
        "trainer.precision=BF16", std::string("parallel.transport=") + transport};
    const std::string whole = std::string("whole") + transport;
    ASSERT_OK(TrainOn(data, whole, {.ranks = 4, .overrides = settings}));
    for (const int stop : {1, 4, 5}) {
      std::vector<std::string> stopped = settings;
      stopped.push_back("debug.stop_after_steps=" + std::to_string(stop));
      const std::string parts = std::string("parts") + transport + std::to_string(stop);
      ASSERT_OK(TrainOn(data, parts, {.ranks = 4, .overrides = stopped}));
      ASSERT_OK(TrainOn(data, parts, {.ranks = 4, .overrides = settings, .resume = true}));
      EXPECT_EQ(LastDigest(data, parts), LastDigest(data, whole)) << transport << " at " << stop;
    }
  }
}

TEST(RankedRunTest, RecipesThatDifferBetweenRanksAreRefusedByAll) {
  const TinyData data;
  std::atomic<int> agreed{0};
  const absl::Status status =
      RunLocalRanks(3, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
        const recipe::v1::Recipe recipe =
            TinyRecipe(data.path(),
                       {"stages.0.tokens_per_step=96", "stages.1.tokens_per_step=192",
                        world->rank() == 1 ? "seed=8" : "seed=7"},
                       3);
        const absl::Status refused =
            Trainer::Create(recipe, {.output = data.File("run"), .world = world}).status();
        if (IsAgreed(refused)) ++agreed;
        return refused;
      });
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition,
                               HasSubstr("the recipe of rank 1 is not that of rank 0")));
  EXPECT_EQ(agreed, 3);
  EXPECT_FALSE(std::filesystem::exists(data.File("run")));
}

// None needs to abort the others, which would tell the same as troubles of every rank.
TEST(RankedRunTest, ANumberThatIsNotFiniteIsToldByAllRanksAlike) {
  const TinyData data;
  const recipe::v1::Recipe recipe =
      TinyRecipe(data.path(),
                 {"stages.0.schedule.learning_rate_peak=1e30", "model.tied_embeddings=false",
                  "stages.0.schedule.warmup_steps=0", "parallel.pipeline=2"},
                 2);
  std::atomic<int> agreed{0};
  const absl::Status status =
      RunLocalRanks(2, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
        PLAIT_ASSIGN_OR_RETURN(
            const auto trainer,
            Trainer::Create(recipe, {.output = data.File("run"), .world = world}));
        const absl::Status stopped = trainer->Run().status();
        if (IsAgreed(stopped)) ++agreed;
        EXPECT_EQ(ExitCodeOf(stopped), ExitCode::kNumericFault);
        return stopped;
      });
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition,
                               HasSubstr("is not finite (loss nan")));
  EXPECT_EQ(agreed, 2);
}

TEST(RankedRunTest, MicrobatchesThatDoNotDivideAreRefused) {
  const recipe::v1::Recipe recipe = TinyRecipe("unused");
  EXPECT_THAT(ValidateRecipe(recipe, /*world_size=*/3),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("not a multiple of the data-parallel size 3")));
}

}  // namespace
}  // namespace plait
