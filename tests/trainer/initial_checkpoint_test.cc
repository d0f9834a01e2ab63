// Runs that start from the weights of a checkpoint, trained or converted.
#include "trainer/initial_checkpoint.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/durable_file.h"
#include "base/exit_code.h"
#include "base/status_macros.h"
#include "checkpoint/shard_overlap.h"
#include "parallel/local_communicator.h"
#include "tests/support/converted_checkpoint.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_run.h"
#include "trainer/trainer.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

const TinyData& Data() {
  static const TinyData data;  // its folder goes with the process
  return data;
}

std::string TokenizerBytes() { return *ReadWholeFile(Data().path() + "/tokenizer.model", 1 << 20); }

std::string From(const std::string& folder) { return "trainer.initial_checkpoint=" + folder; }

// The evaluations of a run, without what depends on the clock.
std::vector<nlohmann::json> Evaluations(const std::string& run) {
  std::vector<nlohmann::json> evaluations;
  std::ifstream file(run + "/metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    nlohmann::json json = nlohmann::json::parse(line);
    if (json["event"] != "evaluation") continue;
    for (const char* field : {"step", "seconds", "tokens_per_second", "time"}) json.erase(field);
    evaluations.push_back(json);
  }
  return evaluations;
}

CheckpointReader Newest(const std::string& run) {
  std::vector<RejectedCheckpoint> rejected;
  auto reader = OpenCheckpointOrRun(run, &rejected);
  PLAIT_CHECK(reader.ok());
  return *std::move(reader);
}

std::string DigestOfAll(const std::string& run) {
  const CheckpointReader reader = Newest(run);
  std::string digests;
  for (const auto& [name, parts] : reader.tensors()) digests += parts[0].stored->digest;
  return digests;
}

class InitialCheckpointTest : public ::testing::Test {
 protected:
  absl::StatusOr<RunResult> Train(const std::string& run, const std::vector<std::string>& overrides,
                                  bool resume = false) {
    auto trainer = Trainer::Create(TinyRecipe(Data().path(), overrides),
                                   {.output = folder_.File(run), .resume = resume});
    if (!trainer.ok()) return trainer.status();
    return (*trainer)->Run();
  }

  ConvertedCheckpoint Convert(DType dtype, const std::vector<std::string>& overrides = {}) {
    return WriteConverted(folder_.File("converted"), TinyRecipe(Data().path(), overrides), dtype,
                          {{"tokenizer.model", TokenizerBytes()}, {"config.json", "{\"a\": 1}"}},
                          "tokenizer.model");
  }

  TemporaryFolder folder_;
};

TEST_F(InitialCheckpointTest, StepZeroIsJudgedAsTheLastStepOfTheSource) {
  for (const std::string precision : {"trainer.precision=F32", "trainer.precision=BF16"}) {
    const std::string first = "first" + precision, second = "second" + precision;
    ASSERT_OK(Train(first, {precision}));
    // A run's folder stands for its newest checkpoint.
    ASSERT_OK(Train(second, {precision, From(folder_.File(first)), "debug.stop_after_steps=1"}));
    const auto source = Evaluations(folder_.File(first)), own = Evaluations(folder_.File(second));
    ASSERT_EQ(source.size(), 2u);
    ASSERT_GE(own.size(), 1u);
    EXPECT_EQ(own.front(), source.back());
    EXPECT_NE(own.front(), source.front());
  }
}

// Whether every master element of this rank is the stored one, widened.
absl::Status CompareMasters(ParameterSharder& sharder, const ConvertedCheckpoint& converted) {
  NamedState state;
  sharder.AppendState(state);
  for (const NamedTensor& own : state.tensors) {
    const NamedTensor* stored = nullptr;
    for (const NamedTensor& tensor : converted.state.tensors) {
      if (tensor.name == own.name) stored = &tensor;
    }
    if (stored == nullptr) return absl::NotFoundError(own.name);
    Tensor wide = Tensor::OnHost(DType::kF32, stored->shard.shape());
    PLAIT_RETURN_IF_ERROR(ConvertFloats(own.name, 0, stored->shard.vector(), wide.vector()));
    for (const ShardRun& run : RunsOf(own.spec)) {
      for (int64_t i = 0; i < run.length; ++i) {
        if (own.shard.data<float>()[run.shard + i] == wide.data<float>()[run.logical + i]) continue;
        return absl::InternalError(absl::StrCat(own.name, ": element ", run.logical + i));
      }
    }
  }
  return absl::OkStatus();
}

TEST_F(InitialCheckpointTest, ConvertedWeightsAreTakenExactlyOnAnyLayout) {
  struct Layout {
    int ranks;
    std::vector<std::string> overrides;
  };
  const Layout layouts[] = {{1, {}}, {2, {}}, {4, {"parallel.replicate=2"}}};
  for (const DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    const ConvertedCheckpoint converted = Convert(dtype);
    for (Layout layout : layouts) {
      SCOPED_TRACE(absl::StrCat(Name(dtype), " on ", layout.ranks));
      layout.overrides.push_back(From(folder_.File("converted")));
      layout.overrides.push_back("trainer.precision=BF16");
      layout.overrides.push_back("stages.0.tokens_per_step=128");
      layout.overrides.push_back("stages.1.tokens_per_step=256");
      const auto recipe = TinyRecipe(Data().path(), layout.overrides, layout.ranks);
      const std::string output = absl::StrCat(folder_.File("run"), Name(dtype), layout.ranks);
      EXPECT_OK(RunLocalRanks(
          layout.ranks, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
            PLAIT_ASSIGN_OR_RETURN(const auto trainer,
                                   Trainer::Create(recipe, {.output = output, .world = world}));
            return CompareMasters(trainer->sharder(), converted);
          }));
    }
  }
}

TEST_F(InitialCheckpointTest, ResumingDoesNotLoadItAgain) {
  Convert(DType::kBf16);
  const std::string from = From(folder_.File("converted"));
  ASSERT_OK(Train("whole", {from}));
  ASSERT_OK(Train("stopped", {from, "debug.stop_after_steps=2"}));
  std::filesystem::remove_all(folder_.File("converted"));
  ASSERT_OK_AND_ASSIGN(const RunResult result, Train("stopped", {from}, /*resume=*/true));
  EXPECT_EQ(result.reason, StopReason::kFinished);
  EXPECT_EQ(DigestOfAll(folder_.File("stopped")), DigestOfAll(folder_.File("whole")));
}

TEST_F(InitialCheckpointTest, WhatACheckpointCarriesIsCarriedOn) {
  Convert(DType::kBf16);
  const std::string from = From(folder_.File("converted"));
  for (const bool resume : {false, true}) {
    ASSERT_OK(Train("run", {from, resume ? "debug.stop_after_steps=5" : "debug.stop_after_steps=2"},
                    resume));
    const CheckpointReader reader = Newest(folder_.File("run"));
    ASSERT_OK_AND_ASSIGN(const std::string config, reader.Attachment("config.json"));
    EXPECT_EQ(config, "{\"a\": 1}");
    ASSERT_OK_AND_ASSIGN(const std::string tokenizer, reader.Attachment("tokenizer.model"));
    EXPECT_EQ(tokenizer, TokenizerBytes());
    EXPECT_EQ(AttachmentsOf(reader)->size(), 2u);
  }
}

TEST_F(InitialCheckpointTest, AnotherModelIsRefusedByItsFirstDifference) {
  Convert(DType::kBf16, {"model.hidden_dim=32"});
  const auto refused = Train("run", {From(folder_.File("converted"))});
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kFailedPrecondition,
                                HasSubstr("is of another model: it has 'hidden_dim: 32', the "
                                          "recipe has 'hidden_dim: 24'")));
  EXPECT_EQ(ExitCodeOf(refused.status()), ExitCode::kBadCheckpoint);
  EXPECT_FALSE(std::filesystem::exists(folder_.File("run")));
}

TEST_F(InitialCheckpointTest, AnotherTokenizerIsRefusedWithTheRemedy) {
  const std::string converted = folder_.File("converted");
  const auto recipe = TinyRecipe(Data().path());
  WriteConverted(converted, recipe, DType::kBf16, {{"tokenizer.model", "another"}},
                 "tokenizer.model");
  const auto refused = Train("run", {From(converted)});
  EXPECT_THAT(refused,
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       ::testing::AllOf(HasSubstr(Data().path() + ": its tokenizer has digest"),
                                        HasSubstr("prepare the data with the checkpoint's: "
                                                  "--tokenizer " +
                                                  converted),
                                        HasSubstr("/tokenizer.model"))));
  EXPECT_EQ(ExitCodeOf(refused.status()), ExitCode::kBadInput);
  EXPECT_FALSE(std::filesystem::exists(folder_.File("run")));
}

TEST_F(InitialCheckpointTest, EitherFormatOfTheTokenizerWillDoAndNoneWarns) {
  const auto recipe = TinyRecipe(Data().path());
  WriteConverted(folder_.File("two"), recipe, DType::kBf16,
                 {{"tokenizer.json", "the same as JSON"}, {"tokenizer.model", TokenizerBytes()}},
                 "tokenizer.json");
  EXPECT_OK(Train("run_two", {From(folder_.File("two")), "debug.stop_after_steps=1"}));
  WriteConverted(folder_.File("none"), recipe, DType::kBf16, {}, "");
  EXPECT_OK(Train("run_none", {From(folder_.File("none")), "debug.stop_after_steps=1"}));
}

}  // namespace
}  // namespace plait
