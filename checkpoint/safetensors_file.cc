#include "checkpoint/safetensors_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/durable_file.h"
#include "base/status_macros.h"

namespace plait {

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return SystemError(path, "cannot be opened", errno);
  SafetensorsFile file;
  file.path_ = path;
  struct stat description {};
  int error = ::fstat(descriptor, &description) != 0 ? errno : 0;
  if (error == 0 && !S_ISREG(description.st_mode)) error = EISDIR;
  if (error == 0 && description.st_size > 0) {
    file.bytes_ = static_cast<size_t>(description.st_size);
    void* mapping = ::mmap(nullptr, file.bytes_, PROT_READ, MAP_SHARED, descriptor, 0);
    if (mapping == MAP_FAILED) {
      error = errno;
    } else {
      file.mapping_ = static_cast<char*>(mapping);
    }
  }
  ::close(descriptor);
  if (error != 0) return SystemError(path, "cannot be mapped", error);
  PLAIT_ASSIGN_OR_RETURN(
      file.header_, ParseSafetensorsHeader(std::string_view(file.mapping_, file.bytes_), path));
  if (file.mapping_ != nullptr) {
    ::madvise(file.mapping_, file.bytes_, MADV_SEQUENTIAL);
    ::madvise(file.mapping_, static_cast<size_t>(file.header_.data_offset), MADV_DONTNEED);
  }
  return file;
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept { *this = std::move(other); }

SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&& other) noexcept {
  if (this == &other) return *this;
  if (mapping_ != nullptr) ::munmap(mapping_, bytes_);
  path_ = std::move(other.path_);
  header_ = std::move(other.header_);
  mapping_ = std::exchange(other.mapping_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

SafetensorsFile::~SafetensorsFile() {
  if (mapping_ != nullptr) ::munmap(mapping_, bytes_);
}

const char* SafetensorsFile::Data(int64_t begin, int64_t size) const {
  PLAIT_CHECK(begin >= 0 && size >= 0 &&
              begin <= static_cast<int64_t>(bytes_) - header_.data_offset - size);
  return mapping_ + header_.data_offset + begin;
}

void SafetensorsFile::Prefetch(int64_t begin, int64_t size) const {
  Advise(begin, size, MADV_WILLNEED);
}

void SafetensorsFile::Release(int64_t begin, int64_t size) const {
  Advise(begin, size, MADV_DONTNEED);
}

void SafetensorsFile::Advise(int64_t begin, int64_t size, int advice) const {
  // Whole pages around the bytes: those at the ends are needed again at most once.
  static const auto page = static_cast<int64_t>(::sysconf(_SC_PAGESIZE));
  const int64_t first = (header_.data_offset + begin) / page * page;
  const int64_t last = std::min(header_.data_offset + begin + size, static_cast<int64_t>(bytes_));
  if (last > first) ::madvise(mapping_ + first, static_cast<size_t>(last - first), advice);
}

}  // namespace plait
