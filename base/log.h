// Log lines on stderr: "HH:MM:SS level message". Verbose lines appear when PLAIT_VERBOSE=1 is set
// or SetVerbose(true) was called.
#pragma once

#include <string_view>

namespace plait {

void LogInfo(std::string_view message);
void LogWarning(std::string_view message);
void LogVerbose(std::string_view message);

// Which rank of a run this process is: rank 0 speaks for all, others are heard with warnings and
// verbose lines alone, with their rank.
void SetLogRank(int rank);
void SetVerbose(bool verbose);
bool IsVerbose();

}  // namespace plait
