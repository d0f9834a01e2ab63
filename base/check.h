// PLAIT_CHECK: aborts on a broken invariant of ours, printing the condition and where. Never for
// input: input gets a Status.
#pragma once

#include <string>

namespace plait {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              const std::string& detail);

}  // namespace plait

#define PLAIT_CHECK(condition)                                                  \
  do {                                                                          \
    if (!(condition)) ::plait::CheckFailed(__FILE__, __LINE__, #condition, ""); \
  } while (false)

// Both values are printed; they must have an overload of std::to_string.
#define PLAIT_CHECK_EQ(a, b)                                                                 \
  do {                                                                                       \
    const auto plait_a = (a);                                                                \
    const auto plait_b = (b);                                                                \
    if (!(plait_a == plait_b))                                                               \
      ::plait::CheckFailed(__FILE__, __LINE__, #a " == " #b,                                 \
                           std::to_string(plait_a) + " against " + std::to_string(plait_b)); \
  } while (false)
