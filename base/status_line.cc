#include "base/status_line.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace plait {
namespace {

constexpr std::chrono::milliseconds kInterval(100);

bool IsTerminal() {
  const char* terminal = std::getenv("TERM");
  return terminal != nullptr && std::string_view(terminal) != "dumb" &&
         ::isatty(STDERR_FILENO) == 1;
}

// A character less: one in the last column would start the next line.
size_t UsableColumns() {
  winsize size{};
  const bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col - 1 : 79;
}

}  // namespace

void StatusLine::Set(std::string_view text) {
  const Clock::time_point now = Clock::now();
  text_ = text;
  if (text_.empty()) {
    Hide();
  } else if (!is_drawn_ || now - drawn_ >= kInterval) {
    Hide();
    Show();
    drawn_ = now;
  }
}

void StatusLine::Hide() {
  if (is_drawn_) std::fputs("\r\x1b[K", stderr);
  is_drawn_ = false;
}

void StatusLine::Show() {
  if (text_.empty() || !IsTerminal()) return;
  std::fputs(text_.substr(0, UsableColumns()).c_str(), stderr);
  std::fflush(stderr);
  is_drawn_ = true;
}

}  // namespace plait
