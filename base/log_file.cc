#include "base/log_file.h"

#include <cerrno>
#include <ctime>
#include <filesystem>
#include <system_error>
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
  run_folder_ = run_folder;
  if (run_folder.empty()) lines_.clear();
  char name[32] = "/log.txt";
  if (rank > 0) std::snprintf(name, sizeof(name), "/logs/rank-%05d.log", rank);
  path_ = run_folder_ + name;
}

void LogFile::Keep(std::string line) {
  if (lines_.size() == kKeptLines) lines_.pop_front();
  lines_.push_back(std::move(line));
}

absl::StatusOr<bool> LogFile::Open() {
  std::error_code error;
  if (run_folder_.empty() || !std::filesystem::is_directory(run_folder_, error)) return false;
  const std::filesystem::path folder = std::filesystem::path(path_).parent_path();
  std::filesystem::create_directory(folder, error);  // logs/
  file_.reset(std::fopen(path_.c_str(), "ae"));
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
