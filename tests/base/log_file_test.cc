#include "base/log_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/durable_file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

constexpr char kHeading[] = "---- ....-..-.. ..:..:.. ----\n";

std::string Text(const std::string& path) {
  const auto text = ReadWholeFile(path, 1 << 20);
  return text.ok() ? *text : std::string(text.status().message());
}

TEST(LogFileTest, LinesWaitForTheFolder) {
  const TemporaryFolder folder;
  LogFile file;
  file.SetRun(folder.File("run"), 0);
  file.Keep("a\n");
  ASSERT_OK_AND_ASSIGN(const bool early, file.Write());
  EXPECT_FALSE(early);
  EXPECT_FALSE(std::filesystem::exists(folder.File("run")));
  std::filesystem::create_directory(folder.File("run"));
  file.Keep("b\n");
  ASSERT_OK_AND_ASSIGN(const bool late, file.Write());
  EXPECT_TRUE(late);
  EXPECT_THAT(Text(folder.File("run/log.txt")), MatchesRegex(std::string(kHeading) + "a\nb\n"));
}

TEST(LogFileTest, AnotherRankHasItsOwnFile) {
  const TemporaryFolder folder;
  LogFile file;
  file.SetRun(folder.path(), 3);
  for (int i = 0; i < 1000; ++i) file.Keep("line " + std::to_string(i) + "\n");
  ASSERT_OK(file.Write());
  EXPECT_EQ(file.path(), folder.File("logs/rank-00003.log"));
  const std::string text = Text(file.path());
  EXPECT_THAT(text, HasSubstr("\nline 801\n"));
  EXPECT_THAT(text, EndsWith("\nline 999\n"));
  EXPECT_THAT(text, Not(HasSubstr("\nline 799\n")));
}

TEST(LogFileTest, AResumedRunAppends) {
  const TemporaryFolder folder;
  for (const char* line : {"first\n", "second\n"}) {
    LogFile file;
    file.SetRun(folder.path(), 0);
    file.Keep(line);
    ASSERT_OK(file.Write());
  }
  EXPECT_THAT(Text(folder.File("log.txt")),
              MatchesRegex(std::string(kHeading) + "first\n" + kHeading + "second\n"));
}

TEST(LogFileTest, WhatCannotBeWrittenIsNamed) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder.File("log.txt"));
  LogFile file;
  file.SetRun(folder.path(), 0);
  EXPECT_THAT(file.Write(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("log.txt: cannot be")));
  ASSERT_OK(WriteFileDurably(folder.File("logs"), ""));
  file.SetRun(folder.path(), 1);
  EXPECT_THAT(file.Write(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                     HasSubstr("logs/rank-00001.log: cannot be")));
}

}  // namespace
}  // namespace plait
