// A folder that one process works in: others are refused until it is done or gone, however it ends.
// The file ".plait-lock" in it carries the lock (flock). Where the file system has no locks, none
// is taken.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace plait {

class FolderLock {
 public:
  // Of a folder that is there. Unavailable where another process has it, errors of SystemError.
  static absl::StatusOr<FolderLock> Take(const std::string& folder);
  // Of a folder that is made here, with the folders above it, or emptied where such a process left
  // it. FailedPrecondition where it holds something and no lock's file: it is somebody else's.
  static absl::StatusOr<FolderLock> TakeEmpty(const std::string& folder);

  FolderLock() = default;
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&& other) noexcept;
  // Gives the lock back; its file stays, so that the folder is known.
  ~FolderLock();

  // Gives the lock back and removes its file: the folder is complete.
  void Remove();

 private:
  std::string path_;
  int descriptor_ = -1;
};

}  // namespace plait
