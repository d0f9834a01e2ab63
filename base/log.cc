#include "base/log.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>

namespace plait {
namespace {

bool VerboseFromEnvironment() {
  const char* value = std::getenv("PLAIT_VERBOSE");
  return value != nullptr && std::strcmp(value, "0") != 0;
}

std::atomic<bool>& Verbose() {
  static std::atomic<bool> verbose{VerboseFromEnvironment()};
  return verbose;
}

std::atomic<int> log_rank{0};

// One fwrite per line, so that lines of several threads do not mix.
void Write(std::string_view level, std::string_view message) {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char clock[16];
  std::strftime(clock, sizeof(clock), "%H:%M:%S ", &local);
  std::string line(clock);
  if (const int rank = log_rank; rank > 0) line.append("rank " + std::to_string(rank) + ": ");
  line.append(level).append(message).push_back('\n');
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace

void LogInfo(std::string_view message) {
  if (log_rank == 0 || IsVerbose()) Write("", message);
}
void LogWarning(std::string_view message) { Write("warning: ", message); }
void LogVerbose(std::string_view message) {
  if (IsVerbose()) Write("verbose: ", message);
}
void SetLogRank(int rank) { log_rank = rank; }
void SetVerbose(bool verbose) { Verbose() = verbose; }
bool IsVerbose() { return Verbose(); }

}  // namespace plait
