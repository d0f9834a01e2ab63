// Progress on stderr: a bar where it is a terminal, a line every few seconds where it is not.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace plait {

class Progress {
 public:
  Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  // Ends the bar's line.
  ~Progress();

  // done of total (0: not known), in any unit. A new stage is shown at once.
  void Update(std::string_view stage, int64_t done, int64_t total);

 private:
  using Clock = std::chrono::steady_clock;

  void Draw(std::string_view stage, int64_t done, int64_t total);

  bool is_terminal_;
  bool drew_ = false;
  std::string stage_;
  Clock::time_point shown_;
};

}  // namespace plait
