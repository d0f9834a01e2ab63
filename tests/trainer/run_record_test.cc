#include "trainer/run_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/durable_file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/terminal.h"

namespace plait {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

StepMetrics SomeStep(int64_t step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.result.counts.real_tokens = 100;
  metrics.result.language_model_loss = 2.5;
  metrics.step_seconds = 0.5;
  return metrics;
}

TEST(RunRecordTest, EveryNumberGoesToBothFiles) {
  const TemporaryFolder folder;
  ASSERT_OK_AND_ASSIGN(RunRecord record, RunRecord::Open(folder.path(), 0, 10));
  ASSERT_OK(record.WriteStart(0, "digest", 7, 0.5, ""));
  ASSERT_OK(record.WriteStep(SomeStep(1)));
  ASSERT_OK(record.WriteEvaluation(1, {.loss = 1.5, .bits_per_byte = 0.75}, 0.5));
  ASSERT_OK(record.WriteCheckpoint(1, "step-00000001", "digest", 0.5));
  ASSERT_OK(record.WriteStop(1, "finished"));
  ASSERT_OK_AND_ASSIGN(const std::string lines,
                       ReadWholeFile(folder.File("metrics.jsonl"), 1 << 20));
  for (const char* event : {"start", "step", "evaluation", "checkpoint", "stop"})
    EXPECT_THAT(lines, HasSubstr(std::string("{\"event\":\"") + event + "\""));
  const std::filesystem::directory_iterator files(folder.File("tensorboard"));
  ASSERT_OK_AND_ASSIGN(const std::string events, ReadWholeFile(files->path().string(), 1 << 20));
  EXPECT_THAT(events, HasSubstr("loss/total"));
  EXPECT_THAT(events, HasSubstr("held_out/bits_per_byte"));
}

TEST(RunRecordTest, TheTerminalShowsTheStepUntilTheRunStops) {
  ::setenv("TERM", "xterm", 1);
  const TemporaryFolder folder;
  EXPECT_THAT(ShownOnTerminal([&folder] {
                auto record = RunRecord::Open(folder.path(), 0, 10);
                EXPECT_OK(record.status());
                EXPECT_OK(record->WriteStep(SomeStep(1)));
                EXPECT_OK(record->WriteStop(1, "finished"));
              }),
              MatchesRegex("step 1/10 10.0 %  loss 2.5000\r\x1b\\[K<end>"));
}

TEST(RunRecordTest, ARunThatFailsLeavesNoLineBehind) {
  ::setenv("TERM", "xterm", 1);
  const TemporaryFolder folder;
  EXPECT_THAT(ShownOnTerminal([&folder] {
                auto record = RunRecord::Open(folder.path(), 0, 10);
                EXPECT_OK(record.status());
                EXPECT_OK(record->WriteStep(SomeStep(1)));
              }),
              MatchesRegex("step .*\r\x1b\\[K<end>"));
}

TEST(RunRecordTest, OneOfNoneWritesAndShowsNothing) {
  ::setenv("TERM", "xterm", 1);
  EXPECT_EQ(ShownOnTerminal([] {
              RunRecord record = RunRecord::None();
              EXPECT_OK(record.WriteStep(SomeStep(1)));
              EXPECT_OK(record.WriteStop(1, "finished"));
            }),
            "<end>");
}

}  // namespace
}  // namespace plait
