// Which of many equal messages are worth showing: the same one at most once an interval.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace plait {

class RepetitionLimit {
 public:
  using Clock = std::chrono::steady_clock;

  explicit RepetitionLimit(Clock::duration interval) : interval_(interval) {}

  // Nothing where the message was shown less than the interval before `now`; else it is to be
  // shown, and the result says how many equal ones were left out since it was last.
  std::optional<int64_t> Admit(std::string_view message, Clock::time_point now);

 private:
  struct Shown {
    Clock::time_point time;
    int64_t left_out = 0;
  };

  const Clock::duration interval_;
  std::map<std::string, Shown, std::less<>> shown_;
};

}  // namespace plait
