#include "tools/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"

namespace plait {
namespace {

constexpr int kBarWidth = 24;
constexpr std::chrono::milliseconds kBarInterval(100);
constexpr std::chrono::seconds kLineInterval(5);
// Rates are told after this time.
constexpr double kShortestSeconds = 0.5;

double Share(const Progress::Amount& amount) {
  if (amount.bytes_total <= 0) return 0;
  return std::clamp(
      static_cast<double>(amount.bytes_done) / static_cast<double>(amount.bytes_total), 0.0, 1.0);
}

std::string Duration(double seconds) {
  const int64_t s = static_cast<int64_t>(seconds + 0.5);
  if (s < 100) return absl::StrCat(s, " s");
  if (s < 100 * 60) return absl::StrCat(s / 60, " min");
  return absl::StrFormat("%d h %02d min", s / 3600, s / 60 % 60);
}

}  // namespace

std::string DescribeProgress(const Progress::Amount& amount, double seconds) {
  std::string text;
  const double share = Share(amount);
  if (amount.bytes_total > 0) {
    const bool large = amount.bytes_total >= 10'000'000'000;
    const double unit = large ? 1e9 : 1e6;
    text = absl::StrFormat("%.0f %%, %.1f of %.1f %s", 100 * share,
                           static_cast<double>(amount.bytes_done) / unit,
                           static_cast<double>(amount.bytes_total) / unit, large ? "GB" : "MB");
  }
  if (seconds < kShortestSeconds) return text;
  if (amount.tokens_done > 0) {
    absl::StrAppendFormat(&text, "%s%.2f M tokens/s", text.empty() ? "" : ", ",
                          static_cast<double>(amount.tokens_done) / seconds / 1e6);
  }
  if (share > 0 && share < 1) {
    absl::StrAppend(&text, ", ", Duration(seconds * (1 - share) / share), " left");
  }
  return text;
}

Progress::Progress() : is_terminal_(::isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (drawn_width_ > 0) std::fputc('\n', stderr);
}

void Progress::Update(std::string_view stage, const Amount& amount) {
  const Clock::time_point now = Clock::now();
  const bool entered = stage != stage_;
  if (entered) {
    stage_ = stage;
    stage_began_ = now;
    complete_ = false;
  }
  const bool completes =
      !complete_ && amount.bytes_total > 0 && amount.bytes_done >= amount.bytes_total;
  const bool due = is_terminal_ ? now - shown_ >= kBarInterval : now - shown_ >= kLineInterval;
  if (!entered && !completes && !(due && !complete_)) return;
  complete_ = complete_ || completes;
  shown_ = now;
  Draw(amount, std::chrono::duration<double>(now - stage_began_).count());
}

void Progress::Draw(const Amount& amount, double seconds) {
  const std::string text = DescribeProgress(amount, seconds);
  if (!is_terminal_) {
    LogInfo(text.empty() ? stage_ : absl::StrCat(stage_, ": ", text));
    return;
  }
  const int filled = static_cast<int>(Share(amount) * kBarWidth);
  const std::string bar = std::string(filled, '#') + std::string(kBarWidth - filled, '.');
  std::string line = absl::StrFormat("%-16s [%s] %s", stage_, bar, text);
  const size_t width = line.size();
  if (width < drawn_width_) line.append(drawn_width_ - width, ' ');
  std::fprintf(stderr, "\r%s", line.c_str());
  std::fflush(stderr);
  drawn_width_ = width;
}

}  // namespace plait
