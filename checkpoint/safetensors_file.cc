#include "checkpoint/safetensors_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/durable_file.h"
#include "base/status_macros.h"

namespace plait {

namespace {

constexpr int64_t kReadAheadBytes = 4 << 20;

}  // namespace

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  SafetensorsFile file;
  file.path_ = path;
  file.descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file.descriptor_ < 0) return SystemError(path, "cannot be opened", errno);
  struct stat description {};
  int error = ::fstat(file.descriptor_, &description) != 0 ? errno : 0;
  if (error == 0 && !S_ISREG(description.st_mode)) error = EISDIR;
  if (error == 0 && description.st_size > 0) {
    file.bytes_ = static_cast<size_t>(description.st_size);
    void* mapping = ::mmap(nullptr, file.bytes_, PROT_READ, MAP_SHARED, file.descriptor_, 0);
    if (mapping == MAP_FAILED) {
      error = errno;
    } else {
      file.mapping_ = static_cast<char*>(mapping);
    }
  }
  if (error != 0) return SystemError(path, "cannot be mapped", error);
  PLAIT_ASSIGN_OR_RETURN(
      file.header_, ParseSafetensorsHeader(std::string_view(file.mapping_, file.bytes_), path));
  if (file.mapping_ != nullptr) {
    ::madvise(file.mapping_, static_cast<size_t>(file.header_.data_offset), MADV_DONTNEED);
  }
  return file;
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept { *this = std::move(other); }

SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(header_, other.header_);
  std::swap(mapping_, other.mapping_);
  std::swap(bytes_, other.bytes_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

SafetensorsFile::~SafetensorsFile() {
  if (mapping_ != nullptr) ::munmap(mapping_, bytes_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

const char* SafetensorsFile::Data(int64_t begin, int64_t size) const {
  PLAIT_CHECK(begin >= 0 && size >= 0 &&
              begin <= static_cast<int64_t>(bytes_) - header_.data_offset - size);
  return mapping_ + header_.data_offset + begin;
}

absl::Status SafetensorsFile::Read(int64_t begin, int64_t size, void* to) const {
  const int64_t first = header_.data_offset + begin;
  (void)::posix_fadvise(descriptor_, first + kReadAheadBytes, size, POSIX_FADV_WILLNEED);
  for (int64_t done = 0; done < size;) {
    const ssize_t got = ::pread(descriptor_, static_cast<char*>(to) + done,
                                static_cast<size_t>(size - done), first + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError(path_, "cannot be read", errno);
    if (got == 0) return absl::DataLossError(absl::StrCat(path_, ": has become shorter"));
    done += got;
  }
  return absl::OkStatus();
}

}  // namespace plait
