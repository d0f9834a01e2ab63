#include "base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace plait {
namespace {

using ::testing::MatchesRegex;

template <typename Body>
std::string Logged(const Body& body) {
  ::testing::internal::CaptureStderr();
  body();
  return ::testing::internal::GetCapturedStderr();
}

TEST(LogTest, ALineHasAClockAndALevel) {
  EXPECT_THAT(Logged([] { LogInfo("a b"); }), MatchesRegex("..:..:.. a b\n"));
  EXPECT_THAT(Logged([] { LogWarning("a"); }), MatchesRegex("..:..:.. warning: a\n"));
}

TEST(LogTest, VerboseLinesAppearOnlyWhenAskedFor) {
  SetVerbose(false);
  EXPECT_EQ(Logged([] { LogVerbose("a"); }), "");
  SetVerbose(true);
  EXPECT_THAT(Logged([] { LogVerbose("a"); }), MatchesRegex("..:..:.. verbose: a\n"));
}

}  // namespace
}  // namespace plait
