#include "tools/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace plait {
namespace {

TEST(ProgressTest, DescribesShareRateAndTimeLeft) {
  EXPECT_EQ(DescribeProgress({8'000'000, 32'000'000, 3'000'000}, 6),
            "25 %, 8.0 of 32.0 MB, 0.50 M tokens/s, 18 s left");
  EXPECT_EQ(DescribeProgress({1'500'000'000, 30'000'000'000, 0}, 600),
            "5 %, 1.5 of 30.0 GB, 3 h 10 min left");
  EXPECT_EQ(DescribeProgress({1'000'000, 11'000'000, 0}, 30), "9 %, 1.0 of 11.0 MB, 5 min left");
  EXPECT_EQ(DescribeProgress({32'000'000, 32'000'000, 9'000'000}, 18),
            "100 %, 32.0 of 32.0 MB, 0.50 M tokens/s");
}

TEST(ProgressTest, WhatIsNotKnownIsLeftOut) {
  EXPECT_EQ(DescribeProgress({0, 32'000'000, 0}, 0), "0 %, 0.0 of 32.0 MB");
  EXPECT_EQ(DescribeProgress({0, 32'000'000, 0}, 9), "0 %, 0.0 of 32.0 MB");
  EXPECT_EQ(DescribeProgress({5, 0, 0}, 9), "");
}

TEST(ProgressTest, WithoutATerminalStagesAndTheirEndsAreLines) {
  ::testing::internal::CaptureStderr();
  {
    Progress progress;
    progress.Update("scan", {0, 100'000'000, 0});
    for (int64_t done = 1; done < 100; ++done) progress.Update("scan", {done, 100'000'000, 0});
    progress.Update("scan", {100'000'000, 100'000'000, 0});
    progress.Update("scan", {100'000'000, 100'000'000, 0});
    progress.Update("tokenise", {0, 50'000'000, 0});
  }
  const std::string lines = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(lines, ::testing::ContainsRegex("scan: 0 %, 0.0 of 100.0 MB\n[^\n]*"
                                              "scan: 100 %, 100.0 of 100.0 MB\n[^\n]*"
                                              "tokenise: 0 %, 0.0 of 50.0 MB\n$"));
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 3);
}

}  // namespace
}  // namespace plait
