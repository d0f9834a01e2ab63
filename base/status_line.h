// A line at the bottom of a terminal on stderr that is rewritten in place, below all other lines.
// Nothing where stderr is no terminal, or one that cannot clear a line (TERM=dumb).
#pragma once

#include <chrono>
#include <string>
#include <string_view>

namespace plait {

class StatusLine {
 public:
  // Cut to the terminal's width, drawn ten times a second at most. Empty: the line goes away.
  void Set(std::string_view text);

  // Takes the line away, and puts it there again: around what else is written.
  void Hide();
  void Show();

 private:
  using Clock = std::chrono::steady_clock;

  std::string text_;
  bool is_drawn_ = false;
  Clock::time_point drawn_;
};

}  // namespace plait
