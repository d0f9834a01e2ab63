// Files that survive a crash: complete under their final name, or absent. Write into a temporary
// folder, sync each file, sync the folder, then RenameDurably. Errors name the path: NotFound,
// ResourceExhausted (disk or quota full), Unavailable (any other failure to write), DataLoss (a
// failed read).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace plait {

// Waits until the file's bytes are on the device.
absl::Status SyncFile(const std::string& path);
// Waits until the folder's entries are.
absl::Status SyncFolder(const std::string& path);
// Renames and syncs the folder that holds the new name.
absl::Status RenameDurably(const std::string& from, const std::string& to);
// Creates or replaces the file and syncs it (not its folder).
absl::Status WriteFileDurably(const std::string& path, std::string_view content);
// The whole file. InvalidArgument where it is longer than `max_bytes`.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path, int64_t max_bytes);

}  // namespace plait
