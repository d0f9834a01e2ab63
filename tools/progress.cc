#include "tools/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_format.h"
#include "base/log.h"

namespace plait {
namespace {

constexpr int kBarWidth = 40;
constexpr std::chrono::milliseconds kBarInterval(100);
constexpr std::chrono::seconds kLineInterval(5);

}  // namespace

Progress::Progress() : is_terminal_(::isatty(STDERR_FILENO) == 1), shown_(Clock::now()) {}

Progress::~Progress() {
  if (drew_) std::fputc('\n', stderr);
}

void Progress::Update(std::string_view stage, int64_t done, int64_t total) {
  const Clock::time_point now = Clock::now();
  const bool entered = stage != stage_;
  const bool due = is_terminal_ ? now - shown_ >= kBarInterval : now - shown_ >= kLineInterval;
  if (!entered && !due) return;
  stage_ = stage;
  shown_ = now;
  Draw(stage, done, total);
}

void Progress::Draw(std::string_view stage, int64_t done, int64_t total) {
  const double share =
      total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0) : 0;
  const std::string name(stage);
  if (!is_terminal_) {
    LogInfo(total > 0 ? absl::StrFormat("%s: %.0f %%", name, 100 * share) : name);
    return;
  }
  const int filled = static_cast<int>(share * kBarWidth);
  const std::string bar = std::string(filled, '#') + std::string(kBarWidth - filled, '.');
  std::fprintf(stderr, "\r%-16s [%s] %3.0f %%", name.c_str(), bar.c_str(), 100 * share);
  std::fflush(stderr);
  drew_ = true;
}

}  // namespace plait
