#include "base/exit_code.h"

#include <gtest/gtest.h>

#include "base/status_macros.h"

namespace plait {
namespace {

TEST(ExitCodeTest, FollowsTheCodeOfTheStatus) {
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), ExitCode::kDone);
  EXPECT_EQ(ExitCodeOf(absl::InvalidArgumentError("")), ExitCode::kBadInput);
  EXPECT_EQ(ExitCodeOf(absl::DataLossError("")), ExitCode::kBadInput);
  EXPECT_EQ(ExitCodeOf(absl::ResourceExhaustedError("")), ExitCode::kTryAgain);
  EXPECT_EQ(ExitCodeOf(absl::InternalError("")), ExitCode::kInternal);
  EXPECT_EQ(ExitCodeOf(absl::UnknownError("")), ExitCode::kInternal);
}

TEST(ExitCodeTest, TheMarkWinsAndSurvivesAnnotation) {
  const absl::Status marked = WithExitCode(absl::DataLossError("cut"), ExitCode::kBadCheckpoint);
  const absl::Status annotated = Annotate(marked, "step-00000001");
  EXPECT_EQ(annotated.message(), "step-00000001: cut");
  EXPECT_EQ(ExitCodeOf(annotated), ExitCode::kBadCheckpoint);
}

TEST(ExitCodeTest, OkCannotBeMarked) {
  EXPECT_EQ(ExitCodeOf(WithExitCode(absl::OkStatus(), ExitCode::kInternal)), ExitCode::kDone);
}

}  // namespace
}  // namespace plait
