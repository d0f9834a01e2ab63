// Files that survive a crash: complete under their final name, or absent. Write into a temporary
// folder, sync each file, sync the folder, then RenameDurably. Errors name the path: those of
// SystemError, and DataLoss (a failed read).
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace plait {

// Large content is written in pieces that end at multiples of this offset, and are no longer. The
// kernel takes memory for a file in blocks as large as a write and as aligned: blocks of MiBs are
// memory that has lain idle, which a virtual machine may have to get from its host first (writes of
// 4 MiB then reach a fifth of the rate of these), and at other offsets there are many small ones.
inline constexpr int64_t kWriteBytes = 64 << 10;
// Of `left` bytes that belong at `offset`, those of the next piece.
inline int64_t NextWriteBytes(int64_t offset, int64_t left) {
  return std::min(left, kWriteBytes - offset % kWriteBytes);
}

// "path: what: reason" of an errno: NotFound; PermissionDenied (read-only file systems, too);
// FailedPrecondition where the path itself cannot do (a file where a folder must be, a name too
// long); ResourceExhausted (disk or quota full); Unavailable for everything that may pass.
absl::Status SystemError(const std::string& path, const std::string& what, int error);

// Takes room on the device for the first `bytes` of the file, whose length does not change; writes
// into it then cost less, and do not fail for want of it. Nothing where the file system cannot.
// Errors of SystemError: ResourceExhausted where there is no room.
absl::Status ReserveFileSpace(const std::string& path, int64_t bytes);
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
