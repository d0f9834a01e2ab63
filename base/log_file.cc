#include "base/log_file.h"

#include <sys/stat.h>

#include <cerrno>
#include <ctime>
#include <utility>

#include "base/durable_file.h"
#include "base/status_macros.h"

namespace plait {
namespace {

// "---- 2026-05-04 03:02:01 ----": the lines themselves have only a clock.
std::string Heading() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char heading[48];
  std::strftime(heading, sizeof(heading), "---- %Y-%m-%d %H:%M:%S ----\n", &local);
  return heading;
}

}  // namespace

void LogFile::SetRun(std::string_view run_folder, int rank) {
  file_.reset();
  folder_ = path_ = std::string(run_folder);
  if (run_folder.empty()) {
    lines_.clear();
  } else if (rank == 0) {
    path_ += "/log.txt";
  } else {
    folder_ += "/logs";
    char name[32];
    std::snprintf(name, sizeof(name), "/rank-%05d.log", rank);
    path_ = folder_ + name;
  }
}

void LogFile::Keep(std::string line) {
  if (lines_.size() == kKeptLines) lines_.pop_front();
  lines_.push_back(std::move(line));
}

absl::StatusOr<bool> LogFile::Open() {
  if (path_.empty()) return false;
  // Of the folders only logs/ may be missing.
  if (path_.ends_with(".log") && ::mkdir(folder_.c_str(), 0777) != 0 && errno != EEXIST) {
    if (errno == ENOENT) return false;
    return SystemError(folder_, "cannot be made", errno);
  }
  file_.reset(std::fopen(path_.c_str(), "ae"));
  if (file_ == nullptr && errno == ENOENT) return false;
  if (file_ == nullptr) return SystemError(path_, "cannot be written", errno);
  lines_.push_front(Heading());
  return true;
}

absl::StatusOr<bool> LogFile::Write() {
  if (file_ == nullptr) {
    auto opened = Open();
    if (!opened.ok()) lines_.clear();
    if (!opened.ok() || !*opened) return opened;
  }
  std::string text;
  for (const std::string& line : std::exchange(lines_, {})) text += line;
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() ||
      std::fflush(file_.get()) != 0) {
    return SystemError(path_, "cannot be written", errno);
  }
  return true;
}

}  // namespace plait
