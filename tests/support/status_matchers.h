// Matchers for absl::Status and absl::StatusOr, spelled as upstream's later ones.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace plait {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <class T>
const absl::Status& StatusOf(const absl::StatusOr<T>& status_or) {
  return status_or.status();
}

MATCHER(IsOk, "is OK") {
  *result_listener << StatusOf(arg);
  return StatusOf(arg).ok();
}

MATCHER_P2(StatusIs, code, message_matcher, "has the code and a message that matches") {
  const absl::Status& status = StatusOf(arg);
  *result_listener << status;
  return status.code() == code &&
         ::testing::ExplainMatchResult(message_matcher, std::string(status.message()),
                                       result_listener);
}

}  // namespace plait

#define EXPECT_OK(expression) EXPECT_THAT(expression, ::plait::IsOk())
#define ASSERT_OK(expression) ASSERT_THAT(expression, ::plait::IsOk())

#define PLAIT_TEST_CONCAT_INNER(a, b) a##b
#define PLAIT_TEST_CONCAT(a, b) PLAIT_TEST_CONCAT_INNER(a, b)
// Fails the test (and returns) where the expression is not OK; otherwise moves its value into
// `target`.
#define ASSERT_OK_AND_ASSIGN(target, expression) \
  ASSERT_OK_AND_ASSIGN_IMPL(PLAIT_TEST_CONCAT(plait_value_, __LINE__), target, expression)
#define ASSERT_OK_AND_ASSIGN_IMPL(value_or, target, expression) \
  auto value_or = (expression);                                 \
  ASSERT_OK(value_or);                                          \
  target = std::move(value_or).value()
