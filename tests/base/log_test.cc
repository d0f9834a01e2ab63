#include "base/log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/durable_file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

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
  ASSERT_OK(WriteFileDurably(folder_.File("run"), "no folder"));
  EXPECT_THAT(Logged([this] {
                const LogToRun to_run(folder_.File("run"));
                LogInfo("one");
                LogInfo("two");
              }),
              MatchesRegex("..:..:.. one\n..:..:.. warning: no log file: .*run/log.txt: cannot be "
                           "written: .*\n..:..:.. two\n"));
}

// What a terminal on stderr receives while `body` runs.
template <typename Body>
std::string Shown(const Body& body) {
  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY);
  EXPECT_TRUE(terminal >= 0 && ::grantpt(terminal) == 0 && ::unlockpt(terminal) == 0);
  const winsize size{.ws_row = 24, .ws_col = 30, .ws_xpixel = 0, .ws_ypixel = 0};
  EXPECT_EQ(::ioctl(terminal, TIOCSWINSZ, &size), 0);
  const int other_end = ::open(::ptsname(terminal), O_RDWR | O_NOCTTY);
  const int before = ::dup(STDERR_FILENO);
  ::dup2(other_end, STDERR_FILENO);
  body();
  std::fputs("<end>", stderr);
  std::fflush(stderr);
  ::dup2(before, STDERR_FILENO);
  std::string text;
  while (!text.ends_with("<end>")) {  // what is written may arrive in pieces
    char piece[256];
    const ssize_t size = ::read(terminal, piece, sizeof(piece));
    if (size <= 0) break;
    text.append(piece, static_cast<size_t>(size));
  }
  for (const int file : {terminal, other_end, before}) ::close(file);
  return text;
}

TEST_F(LogTest, TheStatusLineStaysBelowTheOthers) {
  ::setenv("TERM", "xterm", 1);
  EXPECT_THAT(Shown([] {
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
  EXPECT_THAT(Shown([] {
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
  EXPECT_THAT(Shown([] {
                SetStatusLine("unseen");
                LogInfo("a");
                SetStatusLine("");
              }),
              Not(HasSubstr("unseen")));
}

}  // namespace
}  // namespace plait
