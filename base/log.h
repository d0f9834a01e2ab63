// Log lines on stderr, "HH:MM:SS level message", and in the files of a run (log_file.h). Rank 0
// speaks for all: its lines are shown and go to RUN/log.txt. Those of another rank are kept in
// memory, and written to its own file once it is in trouble: at a warning, or LogFailure. Verbose
// lines are shown, of other ranks all lines, where PLAIT_VERBOSE=1 is set or SetVerbose(true) was
// called. All may be called from any thread.
#pragma once

#include <string_view>

namespace plait {

void LogInfo(std::string_view message);
// Shown on every rank, the same message at most once a minute.
void LogWarning(std::string_view message);
void LogVerbose(std::string_view message);
// Why this process ends, for the files alone: whoever calls it tells the user.
void LogFailure(std::string_view message);

// Of this process; 0 where it is not said.
void SetLogRank(int rank);
void SetVerbose(bool verbose);
bool IsVerbose();

// A line below all others on rank 0's terminal, rewritten in place (status_line.h); empty: none.
void SetStatusLine(std::string_view text);

// While it lives, log lines go to files of the run in this folder too, from when the folder exists.
// At most one at a time.
class LogToRun {
 public:
  explicit LogToRun(std::string_view run_folder);
  LogToRun(const LogToRun&) = delete;
  LogToRun& operator=(const LogToRun&) = delete;
  ~LogToRun();
};

}  // namespace plait
