#include "checkpoint/retention.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/durable_file.h"
#include "base/status_macros.h"

namespace plait {
namespace {

constexpr char kPrefix[] = "step-";
constexpr char kTemporaryPrefix[] = "tmp.";

absl::StatusOr<std::vector<std::string>> NamesIn(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator entries(folder, error);
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    names.push_back(entries->path().filename().string());
  }
  if (error == std::errc::no_such_file_or_directory) return names;
  if (error) return SystemError(folder, "cannot be listed", error.value());
  return names;
}

absl::Status RemoveAll(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  return error ? SystemError(path, "cannot be removed", error.value()) : absl::OkStatus();
}

// -1 where it is no checkpoint's name.
int64_t StepOf(const std::string& name) {
  int64_t step = 0;
  const bool is_step = name.rfind(kPrefix, 0) == 0 &&
                       absl::SimpleAtoi(name.substr(sizeof(kPrefix) - 1), &step) && step >= 0 &&
                       name == CheckpointName(step);
  return is_step ? step : -1;
}

}  // namespace

bool IsCheckpointName(const std::string& name) { return StepOf(name) >= 0; }

std::string CheckpointName(int64_t step) { return absl::StrFormat("%s%08d", kPrefix, step); }

absl::StatusOr<std::vector<CheckpointEntry>> ListCheckpoints(
    const std::string& checkpoints_folder) {
  PLAIT_ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesIn(checkpoints_folder));
  std::vector<CheckpointEntry> entries;
  for (const std::string& name : names) {
    const int64_t step = StepOf(name);
    if (step >= 0) entries.push_back({step, absl::StrCat(checkpoints_folder, "/", name)});
  }
  std::sort(entries.begin(), entries.end(),
            [](const CheckpointEntry& a, const CheckpointEntry& b) { return a.step > b.step; });
  return entries;
}

absl::Status RemoveLeftovers(const std::string& checkpoints_folder) {
  PLAIT_ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesIn(checkpoints_folder));
  for (const std::string& name : names) {
    if (name.rfind(kTemporaryPrefix, 0) != 0) continue;
    PLAIT_RETURN_IF_ERROR(RemoveAll(absl::StrCat(checkpoints_folder, "/", name)));
  }
  return absl::OkStatus();
}

absl::Status RetireCheckpoint(const std::string& checkpoints_folder, int64_t step) {
  const std::string name = CheckpointName(step);
  const std::string trash = absl::StrCat(checkpoints_folder, "/", kTemporaryPrefix, "trash.", name);
  PLAIT_RETURN_IF_ERROR(RemoveAll(trash));
  PLAIT_RETURN_IF_ERROR(RenameDurably(absl::StrCat(checkpoints_folder, "/", name), trash));
  return RemoveAll(trash);
}

absl::Status RetainNewest(const std::string& checkpoints_folder, int64_t step, int64_t keep) {
  PLAIT_CHECK(keep >= 1);
  PLAIT_ASSIGN_OR_RETURN(std::vector<CheckpointEntry> entries, ListCheckpoints(checkpoints_folder));
  std::erase_if(entries, [step](const CheckpointEntry& entry) { return entry.step > step; });
  // The oldest goes first.
  for (size_t i = entries.size(); i > static_cast<size_t>(keep); --i) {
    PLAIT_RETURN_IF_ERROR(RetireCheckpoint(checkpoints_folder, entries[i - 1].step));
  }
  return absl::OkStatus();
}

}  // namespace plait
