#include "parallel/status_agreement.h"

#include "base/exit_code.h"
#include "parallel/local_communicator.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::EndsWith;
using ::testing::StartsWith;

std::string Long() {
  std::string text;
  while (text.size() < 10'000) text += "\xc3\xa4";  // two bytes a character
  return text + "end";
}

TEST(StatusAgreementTest, WhatAllRanksHaveIsToldWhole) {
  for (const int ranks : {1, 3}) {
    EXPECT_OK(RunLocalRanks(ranks, [](const std::shared_ptr<Communicator>& world) {
      const absl::Status status = AgreeOnStatus(*world, absl::NotFoundError(Long()));
      EXPECT_EQ(std::string(status.message()), Long());
      EXPECT_TRUE(IsAgreed(status));
      return absl::OkStatus();
    }));
  }
}

TEST(StatusAgreementTest, WhatOneRankHasIsToldAllWithItsExitCodeCutWhereACharacterEnds) {
  for (const std::string before : {"", "x", "xy"}) {
    EXPECT_OK(RunLocalRanks(3, [&before](const std::shared_ptr<Communicator>& world) {
      const bool fails = world->rank() == 1;
      const absl::Status status = AgreeOnStatus(
          *world, fails
                      ? WithExitCode(absl::DataLossError(before + Long()), ExitCode::kBadCheckpoint)
                      : absl::OkStatus());
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
      EXPECT_EQ(ExitCodeOf(status), ExitCode::kBadCheckpoint);
      const std::string message(status.message());
      EXPECT_THAT(message, StartsWith("rank 1: " + before + "\xc3\xa4"));
      EXPECT_THAT(message, EndsWith("\xa4..."));
      EXPECT_GT(message.size(), 1'900u);
      EXPECT_LT(message.size(), 2'100u);
      return absl::OkStatus();
    }));
  }
}

TEST(StatusAgreementTest, OkIsOkOnAllAlone) {
  EXPECT_OK(RunLocalRanks(3, [](const std::shared_ptr<Communicator>& world) {
    EXPECT_OK(AgreeOnStatus(*world, absl::OkStatus()));
    EXPECT_FALSE(
        AgreeOnStatus(*world, world->rank() == 2 ? absl::InternalError("") : absl::OkStatus())
            .ok());
    return absl::OkStatus();
  }));
}

}  // namespace
}  // namespace plait
