// A folder that is complete under its final name, or absent: it is filled under a temporary name
// beside it, "tmp.<name>", and renamed. What a killed process left there is removed by the next
// one. For one process; ranks agree on the results.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/folder_lock.h"

namespace plait {

// Where the folder is filled.
std::string PendingFolderOf(const std::string& target);

// Makes the temporary folder, empty, and the folders above it, and takes its lock: errors of
// FolderLock::TakeEmpty. ResourceExhausted where the disk has not `needed_bytes` free.
absl::StatusOr<FolderLock> BeginFolder(const std::string& target, int64_t needed_bytes);
// Removes the lock, syncs the folder's entries, and gives it its name by ReplaceFolder.
absl::Status PublishFolder(const std::string& target, FolderLock& lock);
// Renames `folder` to `target`, durably. A folder that has the name already leaves it, and is
// removed when the new one is there; where that fails, it has its name again.
absl::Status ReplaceFolder(const std::string& folder, const std::string& target);
// Removes the temporary folder.
void DiscardFolder(const std::string& target);

}  // namespace plait
