// A folder that is complete under its final name, or absent: it is filled under a temporary name
// beside it, "tmp.<name>", and renamed. What a killed process left there is removed by the next
// one. For one process; ranks agree on the results.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace plait {

// Where the folder is filled.
std::string PendingFolderOf(const std::string& target);

// Makes the temporary folder, empty, and the folders above it. ResourceExhausted where the disk has
// not `needed_bytes` free.
absl::Status BeginFolder(const std::string& target, int64_t needed_bytes);
// Syncs its entries, and gives it its name by ReplaceFolder.
absl::Status PublishFolder(const std::string& target);
// Renames `folder` to `target`, durably. A folder that has the name already leaves it, and is
// removed when the new one is there; where that fails, it has its name again.
absl::Status ReplaceFolder(const std::string& folder, const std::string& target);
// Removes the temporary folder.
void DiscardFolder(const std::string& target);

}  // namespace plait
