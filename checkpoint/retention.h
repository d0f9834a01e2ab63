// Which checkpoints a folder holds, and how many stay. A checkpoint is a folder step-00001000;
// everything that begins with "tmp." is unfinished or on its way out and means nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace plait {

// "step-00001000"
std::string CheckpointName(int64_t step);
bool IsCheckpointName(const std::string& name);

struct CheckpointEntry {
  int64_t step = 0;
  std::string folder;  // path
};

// Newest first. Says nothing about whether they verify. An absent folder holds none.
absl::StatusOr<std::vector<CheckpointEntry>> ListCheckpoints(const std::string& checkpoints_folder);

// Removes what a killed process left behind: every "tmp.*" of the folder. To be called at start,
// before anything else uses the folder.
absl::Status RemoveLeftovers(const std::string& checkpoints_folder);

// A checkpoint leaves: renamed to a trash name, the folder synced, then deleted, so that no half of
// it is ever seen.
absl::Status RetireCheckpoint(const std::string& checkpoints_folder, int64_t step);

// Retires all but the newest `keep` (at least 1) of those up to `step`. Newer ones did not verify
// when the run went on from an older one: they count for nothing, and are replaced in their turn.
absl::Status RetainNewest(const std::string& checkpoints_folder, int64_t step, int64_t keep);

}  // namespace plait
