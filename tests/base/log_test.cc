#include "base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "base/durable_file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/terminal.h"

namespace plait {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

template <typename Body>
std::string Logged(const Body& body) {
  ::testing::internal::CaptureStderr();
  body();
  return ::testing::internal::GetCapturedStderr();
}

class LogTest : public ::testing::Test {
 protected:
  LogTest() { const LogToRun forget_earlier_lines(""); }
  ~LogTest() override {
    SetLogRank(0);
    SetVerbose(false);
  }
  std::string Text(const std::string& name) const {
    const auto text = ReadWholeFile(folder_.File(name), 1 << 20);
    return text.ok() ? *text : "";
  }
  TemporaryFolder folder_;
};

TEST_F(LogTest, ALineHasAClockAndALevel) {
  EXPECT_THAT(Logged([] { LogInfo("a b"); }), MatchesRegex("..:..:.. a b\n"));
  EXPECT_THAT(Logged([] { LogWarning("a"); }), MatchesRegex("..:..:.. warning: a\n"));
}

TEST_F(LogTest, VerboseLinesAppearOnlyWhenAskedFor) {
  SetVerbose(false);
  EXPECT_EQ(Logged([] { LogVerbose("a"); }), "");
  SetVerbose(true);
  EXPECT_THAT(Logged([] { LogVerbose("a"); }), MatchesRegex("..:..:.. verbose: a\n"));
}

TEST_F(LogTest, TheSameWarningAppearsOnce) {
  EXPECT_THAT(Logged([] {
                for (int i = 0; i < 3; ++i) LogWarning("again");
              }),
              MatchesRegex("..:..:.. warning: again\n"));
}

TEST_F(LogTest, TheRunsLogHasWhatTheConsoleHas) {
  const std::string console = Logged([this] {
    const LogToRun to_run(folder_.path());
    LogInfo("one");
    LogVerbose("unseen");
    LogWarning("two");
  });
  LogInfo("after");
  EXPECT_THAT(Text("log.txt"), MatchesRegex("----.*----\n..:..:.. one\n..:..:.. warning: two\n"));
  EXPECT_THAT(Text("log.txt"), HasSubstr(console));
}

TEST_F(LogTest, AnotherRankSpeaksUpOnlyInTrouble) {
  SetLogRank(3);
  const LogToRun to_run(folder_.path());
  EXPECT_EQ(Logged([] {
              LogInfo("one");
              LogVerbose("two");
            }),
            "");
  EXPECT_EQ(Text("logs/rank-00003.log"), "");
  const std::string path = folder_.File("logs/rank-00003.log");
  EXPECT_THAT(Logged([] { LogWarning("three"); }),
              MatchesRegex("..:..:.. rank 3: warning: three\n"
                           "..:..:.. rank 3: its last lines are in " +
                           path + "\n"));
  EXPECT_THAT(Text("logs/rank-00003.log"),
              MatchesRegex("----.*----\n..:..:.. one\n..:..:.. verbose: two\n"
                           "..:..:.. warning: three\n"));
  EXPECT_EQ(Logged([] {
              LogInfo("four");
              LogFailure("five");
            }),
            "");
  EXPECT_THAT(Text("logs/rank-00003.log"), HasSubstr(" four\n"));
  EXPECT_THAT(Text("logs/rank-00003.log"), HasSubstr(" error: five\n"));
}

TEST_F(LogTest, AFileThatCannotBeWrittenIsToldOnce) {
  std::filesystem::create_directories(folder_.File("run/log.txt"));
  EXPECT_THAT(Logged([this] {
                const LogToRun to_run(folder_.File("run"));
                LogInfo("one");
                LogInfo("two");
              }),
              MatchesRegex("..:..:.. one\n..:..:.. warning: no log file: .*run/log.txt: cannot be "
                           "written: .*\n..:..:.. two\n"));
}

TEST_F(LogTest, TheStatusLineStaysBelowTheOthers) {
  ::setenv("TERM", "xterm", 1);
  EXPECT_THAT(ShownOnTerminal([] {
                SetStatusLine("step 1 of many: cut at the terminal's width");
                LogInfo("a");
                SetStatusLine("");
              }),
              MatchesRegex("step 1 of many: cut at the te"
                           "\r\x1b\\[K..:..:.. a\r\nstep 1 of many: cut at the te"
                           "\r\x1b\\[K<end>"));
}

TEST_F(LogTest, TheStatusLineIsDrawnTenTimesASecondAtMost) {
  ::setenv("TERM", "xterm", 1);
  EXPECT_THAT(ShownOnTerminal([] {
                SetStatusLine("first");
                SetStatusLine("second");
                LogInfo("a");
                SetStatusLine("");
              }),
              MatchesRegex("first\r\x1b\\[K..:..:.. a\r\nsecond\r\x1b\\[K<end>"));
}

TEST_F(LogTest, WithoutATerminalThereIsNoStatusLine) {
  EXPECT_EQ(Logged([] { SetStatusLine("a"); }), "");
  ::setenv("TERM", "dumb", 1);
  EXPECT_THAT(ShownOnTerminal([] {
                SetStatusLine("unseen");
                LogInfo("a");
                SetStatusLine("");
              }),
              Not(HasSubstr("unseen")));
}

}  // namespace
}  // namespace plait
