#include "checkpoint/pending_folder.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/durable_file.h"
#include "base/status_macros.h"

namespace plait {
namespace {

namespace fs = std::filesystem;

// Of `target`, with a name in the folder that holds it.
fs::path Beside(const std::string& target, const std::string& prefix) {
  fs::path path(target);
  if (!path.has_filename()) path = path.parent_path();  // "folder/"
  return path.parent_path() / absl::StrCat(prefix, path.filename().string());
}

absl::Status RemoveAll(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  return error ? SystemError(path.string(), "cannot be removed", error.value()) : absl::OkStatus();
}

}  // namespace

std::string PendingFolderOf(const std::string& target) { return Beside(target, "tmp.").string(); }

absl::StatusOr<FolderLock> BeginFolder(const std::string& target, int64_t needed_bytes) {
  const std::string folder = PendingFolderOf(target);
  PLAIT_ASSIGN_OR_RETURN(FolderLock lock, FolderLock::TakeEmpty(folder));
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  if (error || space.available >= static_cast<uint64_t>(needed_bytes)) return lock;
  DiscardFolder(target);
  return absl::ResourceExhaustedError(absl::StrCat(
      target, ": needs ", needed_bytes, " bytes, the disk has ", space.available, " free"));
}

absl::Status PublishFolder(const std::string& target, FolderLock& lock) {
  const std::string folder = PendingFolderOf(target);
  lock.Remove();
  PLAIT_RETURN_IF_ERROR(SyncFolder(folder));
  return ReplaceFolder(folder, target);
}

absl::Status ReplaceFolder(const std::string& folder, const std::string& target) {
  std::error_code error;
  const fs::path old = Beside(target, "tmp.trash.");
  const bool replaces = fs::exists(target, error);
  if (replaces) {
    PLAIT_RETURN_IF_ERROR(RemoveAll(old));
    PLAIT_RETURN_IF_ERROR(RenameDurably(target, old.string()));
  }
  const absl::Status renamed = RenameDurably(folder, target);
  if (renamed.ok()) return RemoveAll(old);
  if (replaces) fs::rename(old, target, error);
  if (!replaces || !error) return renamed;
  return absl::Status(renamed.code(), absl::StrCat(renamed.message(), "; what was there is ",
                                                   old.string(), " now"));
}

void DiscardFolder(const std::string& target) {
  std::error_code ignored;
  std::filesystem::remove_all(PendingFolderOf(target), ignored);
}

}  // namespace plait
