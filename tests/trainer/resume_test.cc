// A run that was stopped anywhere and resumed is bitwise the run that was not.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "base/durable_file.h"
#include "base/exit_code.h"
#include "base/folder_lock.h"
#include "base/status_macros.h"
#include "checkpoint/checkpoint_reader.h"
#include "parallel/local_communicator.h"
#include "recipes/recipe_digest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_run.h"
#include "trainer/trainer.h"

namespace plait {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;

constexpr int64_t kSteps = 7;  // 4 and 3

const TinyData& Data() {
  static const TinyData data;  // its folder goes with the process
  return data;
}

absl::StatusOr<RunResult> Train(const std::string& output, bool resume,
                                const std::vector<std::string>& overrides,
                                const std::string& data = Data().path(),
                                const std::function<bool()>& stop = nullptr) {
  auto trainer = Trainer::Create(TinyRecipe(data, overrides),
                                 {.output = output, .resume = resume, .stop_requested = stop});
  if (!trainer.ok()) return trainer.status();
  return (*trainer)->Run();
}

// Digest of every tensor of the run's newest checkpoint: parameters and moments.
std::map<std::string, std::string> Digests(const std::string& run) {
  std::vector<RejectedCheckpoint> rejected;
  const auto reader = OpenCheckpointOrRun(run, &rejected);
  EXPECT_OK(reader);
  std::map<std::string, std::string> digests;
  for (const auto& [name, parts] : reader->tensors()) digests[name] = parts[0].stored->digest;
  digests["step"] = std::to_string(reader->description().step);
  return digests;
}

// What the metrics say was computed, by event and step; times and speeds left out.
std::vector<std::string> Computed(const std::string& run) {
  std::vector<std::string> lines;
  std::ifstream file(run + "/metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    if (line.find("\"event\":\"step\"") != std::string::npos)
      lines.push_back(line.substr(0, line.find("\"tokens_per_second\"")));
    if (line.find("\"event\":\"evaluation\"") != std::string::npos)
      lines.push_back(line.substr(0, line.find("\"seconds\"")));
  }
  return lines;
}

// The last digest of the parameters that the metrics tell.
std::string LastParameterDigest(const std::string& run) {
  std::string digest;
  std::ifstream file(run + "/metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    digest = nlohmann::json::parse(line).value("parameter_digest", digest);
  }
  return digest;
}

class ResumeTest : public ::testing::TestWithParam<const char*> {
 protected:
  TemporaryFolder folder_;
};

TEST_P(ResumeTest, StoppedAtAnyStepEqualsNeverStopped) {
  const std::string precision = std::string("trainer.precision=") + GetParam();
  const std::vector<std::string> base = {precision, "trainer.evaluate_every_steps=2"};
  ASSERT_OK_AND_ASSIGN(const RunResult whole, Train(folder_.File("whole"), false, base));
  EXPECT_EQ(whole.reason, StopReason::kFinished);
  EXPECT_EQ(whole.step, kSteps);
  const auto expected = Digests(folder_.File("whole"));
  const auto computed = Computed(folder_.File("whole"));
  EXPECT_EQ(computed.size(), static_cast<size_t>(kSteps + 5));  // evaluated at 0, 2, 4, 6, 7
  for (int64_t stop = 1; stop < kSteps; ++stop) {
    SCOPED_TRACE("stopped at step " + std::to_string(stop));
    const std::string run = folder_.File("stop" + std::to_string(stop));
    std::vector<std::string> stopping = base;
    stopping.push_back("debug.stop_after_steps=" + std::to_string(stop));
    ASSERT_OK_AND_ASSIGN(const RunResult first, Train(run, false, stopping));
    EXPECT_EQ(first.reason, StopReason::kStopAfter);
    EXPECT_EQ(first.step, stop);
    ASSERT_OK_AND_ASSIGN(const RunResult second, Train(run, true, base));
    EXPECT_EQ(second.reason, StopReason::kFinished);
    EXPECT_EQ(Digests(run), expected);
    EXPECT_EQ(Computed(run), computed);
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, ResumeTest, ::testing::Values("BF16", "F32"),
                         [](const auto& parameter) { return std::string(parameter.param); });

class RunFolderTest : public ::testing::Test {
 protected:
  TemporaryFolder folder_;
};

TEST_F(RunFolderTest, ADamagedNewestCheckpointFallsBackAndTheMetricsFollow) {
  const std::vector<std::string> saving = {"trainer.checkpoint_every_steps=2"};
  const std::string run = folder_.File("run");
  ASSERT_OK(Train(run, false, saving));
  const auto expected = Digests(run);
  const auto computed = Computed(run);
  std::filesystem::resize_file(run + "/checkpoints/step-00000007/rank-00000.h5", 1000);
  ASSERT_OK_AND_ASSIGN(const RunResult resumed, Train(run, true, saving));
  EXPECT_EQ(resumed.step, kSteps);
  EXPECT_EQ(Digests(run), expected);
  EXPECT_EQ(Computed(run), computed);
}

TEST_F(RunFolderTest, KilledBetweenACheckpointAndItsLineTheMetricsStillTellItsParameters) {
  const std::string run = folder_.File("run");
  ASSERT_OK(Train(run, false, {}));
  const std::string expected = LastParameterDigest(run);
  ASSERT_OK_AND_ASSIGN(std::string lines, ReadWholeFile(run + "/metrics.jsonl", 1 << 24));
  lines.resize(lines.rfind("{\"event\":\"checkpoint\""));
  ASSERT_OK(WriteFileDurably(run + "/metrics.jsonl", lines));
  ASSERT_NE(LastParameterDigest(run), expected);
  ASSERT_OK(Train(run, true, {}));
  EXPECT_EQ(LastParameterDigest(run), expected);
}

TEST_F(RunFolderTest, TheDigestsThatWereAskedForAreInTheLinesOfTheirSteps) {
  const std::string run = folder_.File("run");
  ASSERT_OK(Train(run, false, {"debug.parameter_digest_every_steps=2"}));
  std::map<int64_t, std::string> of_steps, of_checkpoints;
  std::ifstream file(run + "/metrics.jsonl");
  for (std::string text; std::getline(file, text);) {
    const nlohmann::json line = nlohmann::json::parse(text);
    if (!line.contains("parameter_digest")) continue;
    (line["event"] == "step" ? of_steps : of_checkpoints)[line["step"]] = line["parameter_digest"];
  }
  ASSERT_THAT(of_steps, ElementsAre(Key(2), Key(4), Key(6)));
  EXPECT_EQ(of_steps[4], of_checkpoints[4]);
  EXPECT_NE(of_steps[2], of_steps[4]);
}

TEST_F(RunFolderTest, NoCheckpointThatVerifiesIsExitCodeThree) {
  const std::string run = folder_.File("run");
  ASSERT_OK(Train(run, false, {"debug.stop_after_steps=1"}));
  std::filesystem::remove(run + "/checkpoints/step-00000001/manifest.textproto");
  const auto resumed = Train(run, true, {});
  EXPECT_EQ(ExitCodeOf(resumed.status()), ExitCode::kBadCheckpoint) << resumed.status();
}

TEST_F(RunFolderTest, ResumingNothingStartsAnew) {
  ASSERT_OK_AND_ASSIGN(const RunResult result,
                       Train(folder_.File("run"), true, {"debug.stop_after_steps=1"}));
  EXPECT_EQ(result.step, 1);
}

TEST_F(RunFolderTest, AFinishedRunIsLeftAsItIs) {
  const std::string run = folder_.File("run");
  ASSERT_OK(Train(run, false, {}));
  const auto expected = Digests(run);
  ASSERT_OK_AND_ASSIGN(const RunResult again, Train(run, true, {}));
  EXPECT_EQ(again.reason, StopReason::kFinished);
  EXPECT_EQ(Digests(run), expected);
}

TEST_F(RunFolderTest, WithoutResumeAUsedFolderIsRefused) {
  const std::string run = folder_.File("run");
  ASSERT_OK(Train(run, false, {"debug.stop_after_steps=1"}));
  EXPECT_THAT(Train(run, false, {}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("--resume")));
}

TEST_F(RunFolderTest, AnotherModelsCheckpointIsNamedAndExitCodeThree) {
  const std::string run = folder_.File("run");
  ASSERT_OK(Train(run, false, {"debug.stop_after_steps=1"}));
  const auto resumed = Train(run, true, {"model.hidden_dim=32"});
  EXPECT_THAT(resumed, StatusIs(absl::StatusCode::kFailedPrecondition,
                                HasSubstr("it has 'hidden_dim: 24', the recipe has "
                                          "'hidden_dim: 32'")));
  EXPECT_EQ(ExitCodeOf(resumed.status()), ExitCode::kBadCheckpoint);
}

TEST_F(RunFolderTest, OtherDataAreRefused) {
  const std::string run = folder_.File("run");
  ASSERT_OK(Train(run, false, {"debug.stop_after_steps=1"}));
  const TinyData other(/*seed=*/2);
  const auto resumed = Train(run, true, {}, other.path());
  EXPECT_THAT(resumed, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(other.path())));
  EXPECT_EQ(ExitCodeOf(resumed.status()), ExitCode::kBadInput);
}

TEST_F(RunFolderTest, ARequestStopsWithACheckpoint) {
  const std::string run = folder_.File("run");
  ASSERT_OK(Train(run, false, {"debug.stop_after_steps=2"}));
  ASSERT_OK_AND_ASSIGN(const RunResult result,
                       Train(run, true, {}, Data().path(), [] { return true; }));
  EXPECT_EQ(result.reason, StopReason::kRequested);
  EXPECT_EQ(result.step, 2);
  EXPECT_THAT(result.checkpoint, HasSubstr("step-00000002"));
}

// Whether the run has made this step.
bool HasMade(const std::string& run, int64_t step) {
  const auto lines = ReadWholeFile(run + "/metrics.jsonl", 1 << 24);
  return lines.ok() &&
         lines->find("\"event\":\"step\",\"step\":" + std::to_string(step)) != std::string::npos;
}

// So that an evaluation asks whether to go on: rows of few tokens, one a batch.
std::vector<std::string> LongEvaluations() {
  return {"stages.0.row_tokens=8", "stages.1.row_tokens=8", "stages.0.rows_per_microbatch=1",
          "stages.1.rows_per_microbatch=1", "trainer.evaluate_every_steps=2"};
}

// An evaluation may take longer than a launcher leaves a run that is to stop.
TEST_F(RunFolderTest, AnEvaluationThatARequestCutsOffIsMadeOnResume) {
  ASSERT_OK(Train(folder_.File("whole"), false, LongEvaluations()));
  const auto whole = Computed(folder_.File("whole"));
  const auto expected = Digests(folder_.File("whole"));
  ASSERT_EQ(whole.size(), static_cast<size_t>(kSteps + 5));
  for (const int64_t step : {0, 2, 7}) {
    SCOPED_TRACE(step);
    const std::string run = folder_.File("run" + std::to_string(step));
    const auto stop = [&] { return step == 0 || HasMade(run, step); };
    ASSERT_OK_AND_ASSIGN(const RunResult cut,
                         Train(run, false, LongEvaluations(), Data().path(), stop));
    EXPECT_EQ(cut.reason, StopReason::kRequested);
    EXPECT_EQ(cut.step, step);
    EXPECT_LT(Computed(run).size(), whole.size());
    // Asked to stop again, it is where it was.
    ASSERT_OK_AND_ASSIGN(const RunResult again,
                         Train(run, true, LongEvaluations(), Data().path(), stop));
    EXPECT_EQ(again.reason, StopReason::kRequested);
    EXPECT_EQ(again.step, step);
    ASSERT_OK_AND_ASSIGN(const RunResult result, Train(run, true, LongEvaluations()));
    EXPECT_EQ(result.reason, StopReason::kFinished);
    EXPECT_EQ(Computed(run), whole);
    EXPECT_EQ(Digests(run), expected);
  }
}

TEST_F(RunFolderTest, AStopThatOneRankIsAskedForCutsOffTheEvaluationOfAll) {
  const std::string run = folder_.File("run");
  ASSERT_OK(RunLocalRanks(2, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
    const auto stop = [&] { return world->rank() == 1 && HasMade(run, 2); };
    PLAIT_ASSIGN_OR_RETURN(
        const auto trainer,
        Trainer::Create(TinyRecipe(Data().path(), LongEvaluations(), /*ranks=*/2),
                        {.output = run, .stop_requested = stop, .world = world}));
    PLAIT_ASSIGN_OR_RETURN(const RunResult result, trainer->Run());
    EXPECT_EQ(result.reason, StopReason::kRequested);
    EXPECT_EQ(result.step, 2);
    return absl::OkStatus();
  }));
  EXPECT_EQ(Computed(run).size(), 3u);  // evaluated at 0, two steps
}

// What an evaluation has seen before it is cut off tells whether the weights may be saved.
TEST_F(RunFolderTest, WeightsThatTheLastUpdateSpoiledAreNotSavedWhereAStopIsRequested) {
  const std::string run = folder_.File("run");
  std::vector<std::string> spoiling = LongEvaluations();
  for (const char* override : {"stages.1.steps=1", "stages.1.schedule.learning_rate_peak=1e30",
                               "stages.1.schedule.learning_rate_final=1e30"}) {
    spoiling.emplace_back(override);
  }
  const absl::Status status =
      Train(run, false, spoiling, Data().path(), [&] { return HasMade(run, 5); }).status();
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kNumericFault) << status;
  EXPECT_FALSE(std::filesystem::exists(run + "/checkpoints/step-00000005"));
}

TEST_F(RunFolderTest, ARecipeThatIsNoRunsIsNotWrittenOver) {
  const std::string run = folder_.File("run"), own = run + "/recipe.textproto";
  std::filesystem::create_directory(run);
  ASSERT_OK(WriteFileDurably(own, "# mine\n"));
  for (const bool resume : {false, true}) {
    EXPECT_THAT(Train(run, resume, {}),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(own)));
  }
  ASSERT_OK_AND_ASSIGN(const std::string there, ReadWholeFile(own, 100));
  EXPECT_EQ(there, "# mine\n");
  EXPECT_FALSE(std::filesystem::exists(run + "/.plait-lock"));
  // The run's own text may be there.
  ASSERT_OK(WriteFileDurably(own, RecipeText(TinyRecipe(Data().path(), {}))));
  ASSERT_OK(Train(run, false, {}));
  // And a run may go on whose metrics are gone.
  std::filesystem::remove(run + "/metrics.jsonl");
  EXPECT_OK(Train(run, true, {"trainer.log_every_steps=3"}));
}

// A run whose first parameter holds an infinity.
absl::StatusOr<RunResult> TrainOnInfinity(const std::string& output, const std::string& policy) {
  auto trainer = Trainer::Create(TinyRecipe(Data().path(), {policy}), {.output = output});
  if (!trainer.ok()) return trainer.status();
  ParameterSharder& sharder = (*trainer)->sharder();
  sharder.sharded()[0].master.data<float>()[5] = std::numeric_limits<float>::infinity();
  PLAIT_CHECK(sharder.RefreshComputeValues().ok());
  return (*trainer)->Run();
}

TEST_F(RunFolderTest, ANumberThatIsNotFiniteStopsTheRunByName) {
  const auto result = TrainOnInfinity(folder_.File("run"), "trainer.non_finite=STOP");
  EXPECT_EQ(ExitCodeOf(result.status()), ExitCode::kNumericFault);
  EXPECT_THAT(std::string(result.status().message()),
              ::testing::AllOf(HasSubstr("step 1: gradient of model."), HasSubstr("not finite")));
}

TEST_F(RunFolderTest, OrSkipsTheStepAndCountsIt) {
  ASSERT_OK(TrainOnInfinity(folder_.File("run"), "trainer.non_finite=SKIP"));
  std::vector<RejectedCheckpoint> rejected;
  ASSERT_OK_AND_ASSIGN(const auto reader, OpenCheckpointOrRun(folder_.File("run"), &rejected));
  EXPECT_EQ(reader.manifest().integers.at("trainer.skipped_steps"), kSteps);
  EXPECT_EQ(reader.manifest().integers.at("adamw.step"), 0);
}

TEST_F(RunFolderTest, WeightsThatTheLastUpdateSpoiledAreNotSaved) {
  const absl::Status status =
      Train(folder_.File("run"), false,
            {"stages.1.steps=1", "stages.1.schedule.learning_rate_peak=1e30",
             "stages.1.schedule.learning_rate_final=1e30"})
          .status();
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kNumericFault);
  EXPECT_THAT(std::string(status.message()), HasSubstr("step 5: the held-out loss is not finite"));
  EXPECT_TRUE(std::filesystem::exists(folder_.File("run/checkpoints/step-00000004")));
  EXPECT_FALSE(std::filesystem::exists(folder_.File("run/checkpoints/step-00000005")));
}

TEST_F(RunFolderTest, AChangeOfStepsMayNotMoveTheRun) {
  ASSERT_OK(Train(folder_.File("run"), false, {"debug.stop_after_steps=5"}));
  EXPECT_THAT(Train(folder_.File("run"), true, {"stages.0.steps=6"}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("step-00000005 has made 1 steps of stage 1, with these steps it "
                                 "would be 5 of stage 0")));
  EXPECT_OK(Train(folder_.File("run"), true, {"stages.1.steps=2"}));
}

TEST_F(RunFolderTest, OneProcessAtATime) {
  ASSERT_OK(Train(folder_.File("run"), false, {"debug.stop_after_steps=2"}));
  ASSERT_OK_AND_ASSIGN(std::optional<FolderLock> lock, FolderLock::Take(folder_.File("run")));
  EXPECT_THAT(Train(folder_.File("run"), true, {}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("another process works in it")));
  lock.reset();
  EXPECT_OK(Train(folder_.File("run"), true, {}));
}

TEST_F(RunFolderTest, StartsFromTheWeightsOfAnotherRun) {
  ASSERT_OK(Train(folder_.File("first"), false, {}));
  ASSERT_OK(Train(folder_.File("second"), false,
                  {"trainer.initial_checkpoint=" + folder_.File("first"),
                   "debug.stop_after_steps=1", "stages.0.schedule.learning_rate_peak=1e-30",
                   "stages.0.schedule.learning_rate_final=1e-30"}));
  // A first step with (nearly) no learning rate leaves the weights as they were.
  auto first = Digests(folder_.File("first")), second = Digests(folder_.File("second"));
  const std::string name = "parameters/model.layers.0.mamba.in_proj.weight";
  ASSERT_EQ(first.count(name), 1u);
  EXPECT_EQ(first[name], second[name]);
}

}  // namespace
}  // namespace plait
