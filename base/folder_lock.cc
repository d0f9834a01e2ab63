#include "base/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/durable_file.h"
#include "base/status_macros.h"

namespace plait {
namespace {

namespace fs = std::filesystem;

constexpr char kName[] = ".plait-lock";

}  // namespace

absl::StatusOr<FolderLock> FolderLock::Take(const std::string& folder) {
  FolderLock lock;
  lock.path_ = absl::StrCat(folder, "/", kName);
  lock.descriptor_ = ::open(lock.path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock.descriptor_ < 0) return SystemError(lock.path_, "cannot be opened", errno);
  int result = 0;
  do {
    result = ::flock(lock.descriptor_, LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno == EWOULDBLOCK) {
    return absl::UnavailableError(absl::StrCat(
        folder, ": another process works in it; wait for its end, or name another folder"));
  }
  return lock;
}

absl::StatusOr<FolderLock> FolderLock::TakeEmpty(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return SystemError(folder, "cannot be made", error.value());
  if (!fs::is_empty(folder, error) && !fs::exists(absl::StrCat(folder, "/", kName), error)) {
    return absl::FailedPreconditionError(absl::StrCat(
        folder, ": is not plait's, which would work there; move it, or name another target"));
  }
  PLAIT_ASSIGN_OR_RETURN(FolderLock lock, Take(folder));
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().filename() == kName) continue;
    fs::remove_all(entry.path(), error);
    if (error) return SystemError(entry.path().string(), "cannot be removed", error.value());
  }
  if (error) return SystemError(folder, "cannot be listed", error.value());
  return lock;
}

FolderLock::FolderLock(FolderLock&& other) noexcept { *this = std::move(other); }

FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

FolderLock::~FolderLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void FolderLock::Remove() {
  if (descriptor_ < 0) return;
  ::unlink(path_.c_str());
  ::close(std::exchange(descriptor_, -1));
}

}  // namespace plait
