// The file that this process' log lines go to, in the folder of a run:
//   RUN/log.txt               of rank 0
//   RUN/logs/rank-00003.log   of rank 3
// Appended to, so that it goes on where a run is resumed. Lines wait in memory, the last ones at
// least, until they are written; RUN itself is never made.
#pragma once

#include <cstddef>
#include <cstdio>
#include <deque>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace plait {

class LogFile {
 public:
  static constexpr size_t kKeptLines = 200;

  // Lines kept so far go to the new file. An empty folder: no file; kept lines are forgotten.
  void SetRun(std::string_view run_folder, int rank);

  // With its end of line. The oldest one goes where there are too many.
  void Keep(std::string line);

  // Appends the kept lines and forgets them. Returns false, and keeps them, where there is no
  // folder of a run (yet). Errors of SystemError, which forget the lines.
  absl::StatusOr<bool> Write();

  const std::string& path() const { return path_; }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  absl::StatusOr<bool> Open();

  std::string run_folder_;
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
  std::deque<std::string> lines_;
};

}  // namespace plait
