// Progress on stderr: a bar where it is a terminal, a line every few seconds where it is not.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace plait {

class Progress {
 public:
  // What has been done of a stage.
  struct Amount {
    int64_t bytes_done = 0;
    int64_t bytes_total = 0;  // 0: not known
    int64_t tokens_done = 0;  // 0: the stage makes none
  };

  Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  // Ends the bar's line.
  ~Progress();

  // A new stage, and the end of one, are shown at once, all else now and then.
  void Update(std::string_view stage, const Amount& amount);

 private:
  using Clock = std::chrono::steady_clock;

  void Draw(const Amount& amount, double seconds);

  bool is_terminal_;
  size_t drawn_width_ = 0;  // of the bar's line
  bool complete_ = false;
  std::string stage_;
  Clock::time_point stage_began_;
  Clock::time_point shown_;
};

// "45 %, 14.4 of 32.1 MB, 1.52 M tokens/s, 12 s left" after `seconds` of the stage. What is not
// known or makes no sense (a rate after no time) is left out.
std::string DescribeProgress(const Progress::Amount& amount, double seconds);

}  // namespace plait
