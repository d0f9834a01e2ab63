#include "base/log.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "base/log_file.h"
#include "base/repetition_limit.h"
#include "base/status_line.h"

namespace plait {
namespace {

bool VerboseFromEnvironment() {
  const char* value = std::getenv("PLAIT_VERBOSE");
  return value != nullptr && std::strcmp(value, "0") != 0;
}

// "HH:MM:SS level message\n".
std::string Line(std::string_view level, std::string_view message) {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char clock[16];
  std::strftime(clock, sizeof(clock), "%H:%M:%S ", &local);
  return std::string(clock).append(level).append(message).append("\n");
}

class Log {
 public:
  std::atomic<bool> verbose{VerboseFromEnvironment()};

  void Info(std::string_view level, std::string_view message, bool is_verbose_line) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const bool shown = verbose || (rank_ == 0 && !is_verbose_line);
    if (!shown && rank_ == 0) return;
    const std::string line = Line(level, message);
    if (shown) Show(line);
    file_.Keep(line);
    if (rank_ == 0) WriteFile();
  }

  void Warning(std::string_view message) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto left_out = repetition_.Admit(message, RepetitionLimit::Clock::now());
    if (!left_out) return;
    std::string text(message);
    if (*left_out > 0) text += " (" + std::to_string(*left_out) + " equal ones left out)";
    const std::string line = Line("warning: ", text);
    Show(line);
    file_.Keep(line);
    WriteFile();
  }

  void Failure(std::string_view message) {
    const std::lock_guard<std::mutex> lock(mutex_);
    file_.Keep(Line("error: ", message));
    WriteFile();
  }

  void SetRank(int rank) {
    const std::lock_guard<std::mutex> lock(mutex_);
    rank_ = rank;
    file_.SetRun(run_folder_, rank_);
  }

  void SetRun(std::string_view folder) {
    const std::lock_guard<std::mutex> lock(mutex_);
    run_folder_ = folder;
    file_.SetRun(run_folder_, rank_);
    told_ = false;
  }

  void SetStatus(std::string_view text) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (rank_ == 0) status_.Set(text);
  }

 private:
  // One fwrite per line, so that lines of several processes do not mix.
  void Show(std::string line) {
    if (rank_ > 0) line.insert(9, "rank " + std::to_string(rank_) + ": ");  // behind the clock
    status_.Hide();
    std::fwrite(line.data(), 1, line.size(), stderr);
    status_.Show();
  }

  // Says once a run where the lines of another rank than 0 are, or why there are none: a log that
  // cannot be written ends no run.
  void WriteFile() {
    const absl::StatusOr<bool> written = file_.Write();
    if (told_ || (written.ok() && (!*written || rank_ == 0))) return;
    told_ = true;
    Show(written.ok()
             ? Line("", "its last lines are in " + file_.path())
             : Line("warning: ", "no log file: " + std::string(written.status().message())));
  }

  std::mutex mutex_;
  int rank_ = 0;
  bool told_ = false;
  std::string run_folder_;
  LogFile file_;
  StatusLine status_;
  RepetitionLimit repetition_{std::chrono::minutes(1)};
};

// Never destroyed: whatever ends late may still log.
Log& TheLog() {
  static Log* const log = new Log;
  return *log;
}

}  // namespace

void LogInfo(std::string_view message) { TheLog().Info("", message, /*is_verbose_line=*/false); }
void LogWarning(std::string_view message) { TheLog().Warning(message); }
void LogVerbose(std::string_view message) {
  TheLog().Info("verbose: ", message, /*is_verbose_line=*/true);
}
void LogFailure(std::string_view message) { TheLog().Failure(message); }

void SetLogRank(int rank) { TheLog().SetRank(rank); }
void SetVerbose(bool verbose) { TheLog().verbose = verbose; }
bool IsVerbose() { return TheLog().verbose; }
void SetStatusLine(std::string_view text) { TheLog().SetStatus(text); }

LogToRun::LogToRun(std::string_view run_folder) { TheLog().SetRun(run_folder); }
LogToRun::~LogToRun() { TheLog().SetRun(""); }

}  // namespace plait
