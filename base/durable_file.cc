#include "base/durable_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace plait {
namespace {

// Closes the descriptor at the end of the scope.
struct Descriptor {
  int number;
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
};

absl::Status Sync(const std::string& path, int flags) {
  Descriptor file{::open(path.c_str(), flags | O_RDONLY | O_CLOEXEC)};
  if (file.number < 0) return SystemError(path, "cannot be opened", errno);
  if (::fsync(file.number) != 0) return SystemError(path, "cannot be synced to the device", errno);
  return absl::OkStatus();
}

}  // namespace

absl::Status SystemError(const std::string& path, const std::string& what, int error) {
  const std::string message = absl::StrCat(path, ": ", what, ": ", std::strerror(error));
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(message);
    case ENOTDIR:
    case EISDIR:
    case EEXIST:
    case EINVAL:
    case ELOOP:
    case ENAMETOOLONG:
      return absl::FailedPreconditionError(message);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::UnavailableError(message);
  }
}

absl::Status ReserveFileSpace(const std::string& path, int64_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  Descriptor file{::open(path.c_str(), O_WRONLY | O_CLOEXEC)};
  if (file.number < 0) return SystemError(path, "cannot be opened", errno);
  int result = 0;
  do {
    result = ::fallocate(file.number, FALLOC_FL_KEEP_SIZE, 0, bytes);
  } while (result != 0 && errno == EINTR);
  if (result == 0 || errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL) {
    return absl::OkStatus();
  }
  return SystemError(path, absl::StrCat("cannot take ", bytes, " bytes"), errno);
}

absl::Status SyncFile(const std::string& path) { return Sync(path, 0); }

absl::Status SyncFolder(const std::string& path) { return Sync(path, O_DIRECTORY); }

absl::Status RenameDurably(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) {
    return SystemError(from, absl::StrCat("cannot be renamed to ", to), errno);
  }
  std::filesystem::path target(to);
  if (!target.has_filename()) target = target.parent_path();
  const std::string folder = target.parent_path().string();
  return SyncFolder(folder.empty() ? "." : folder);
}

absl::Status WriteFileDurably(const std::string& path, std::string_view content) {
  Descriptor file{::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)};
  if (file.number < 0) return SystemError(path, "cannot be created", errno);
  while (!content.empty()) {
    const ssize_t written = ::write(file.number, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return SystemError(path, "cannot be written", errno);
    content.remove_prefix(static_cast<size_t>(written));
  }
  if (::fsync(file.number) != 0) return SystemError(path, "cannot be synced to the device", errno);
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadWholeFile(const std::string& path, int64_t max_bytes) {
  Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.number < 0) return SystemError(path, "cannot be opened", errno);
  std::string content;
  while (true) {
    char buffer[1 << 16];
    const ssize_t got = ::read(file.number, buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      return absl::DataLossError(absl::StrCat(path, ": cannot be read: ", std::strerror(errno)));
    if (got == 0) return content;
    content.append(buffer, static_cast<size_t>(got));
    if (static_cast<int64_t>(content.size()) > max_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": longer than the ", max_bytes, " bytes allowed"));
    }
  }
}

}  // namespace plait
