#include "base/repetition_limit.h"

#include <gtest/gtest.h>

#include <string>

namespace plait {
namespace {

using std::chrono::seconds;

TEST(RepetitionLimitTest, TheSameMessageIsLeftOutForTheInterval) {
  RepetitionLimit limit(seconds(60));
  const RepetitionLimit::Clock::time_point start;
  EXPECT_EQ(limit.Admit("a", start), 0);
  EXPECT_EQ(limit.Admit("a", start + seconds(1)), std::nullopt);
  EXPECT_EQ(limit.Admit("b", start + seconds(2)), 0);
  EXPECT_EQ(limit.Admit("a", start + seconds(59)), std::nullopt);
  EXPECT_EQ(limit.Admit("a", start + seconds(60)), 2);
  EXPECT_EQ(limit.Admit("a", start + seconds(61)), std::nullopt);
}

TEST(RepetitionLimitTest, MessagesThatAllDifferAreForgotten) {
  RepetitionLimit limit(seconds(60));
  const RepetitionLimit::Clock::time_point start;
  limit.Admit("0", start);
  limit.Admit("0", start);
  for (int i = 1; i < 1000; ++i) limit.Admit(std::to_string(i), start);
  EXPECT_EQ(limit.Admit("new", start + seconds(60)), 0);
  EXPECT_EQ(limit.Admit("0", start + seconds(60)), 0);  // not 1: it does not know any more
}

}  // namespace
}  // namespace plait
