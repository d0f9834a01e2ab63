// A terminal of 30 columns in the place of stderr.
#pragma once

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/check.h"

namespace plait {

// What the terminal receives while `body` runs, and "<end>".
template <typename Body>
std::string ShownOnTerminal(const Body& body) {
  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY);
  PLAIT_CHECK(terminal >= 0 && ::grantpt(terminal) == 0 && ::unlockpt(terminal) == 0);
  const winsize size{.ws_row = 24, .ws_col = 30, .ws_xpixel = 0, .ws_ypixel = 0};
  PLAIT_CHECK(::ioctl(terminal, TIOCSWINSZ, &size) == 0);
  const int other_end = ::open(::ptsname(terminal), O_RDWR | O_NOCTTY);
  const int before = ::dup(STDERR_FILENO);
  ::dup2(other_end, STDERR_FILENO);
  body();
  std::fputs("<end>", stderr);
  std::fflush(stderr);
  ::dup2(before, STDERR_FILENO);
  std::string text;
  while (!text.ends_with("<end>")) {  // what is written may arrive in pieces
    char piece[256];
    const ssize_t count = ::read(terminal, piece, sizeof(piece));
    if (count <= 0) break;
    text.append(piece, static_cast<size_t>(count));
  }
  for (const int file : {terminal, other_end, before}) ::close(file);
  return text;
}

}  // namespace plait
