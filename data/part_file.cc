#include "data/part_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/durable_file.h"
#include "base/status_macros.h"

namespace plait {
namespace {

constexpr size_t kBufferBytes = 1 << 20;

}  // namespace

absl::StatusOr<PartFileWriter> PartFileWriter::Create(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) return SystemError(path, "cannot be created", errno);
  return PartFileWriter(path, descriptor);
}

PartFileWriter::PartFileWriter(PartFileWriter&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      buffer_(std::move(other.buffer_)) {}

PartFileWriter::~PartFileWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

absl::Status PartFileWriter::Append(const void* data, size_t bytes) {
  buffer_.append(static_cast<const char*>(data), bytes);
  return buffer_.size() >= kBufferBytes ? Flush() : absl::OkStatus();
}

absl::Status PartFileWriter::Close() {
  PLAIT_RETURN_IF_ERROR(Flush());
  if (::close(std::exchange(descriptor_, -1)) != 0) {
    return SystemError(path_, "cannot be written", errno);
  }
  return absl::OkStatus();
}

absl::Status PartFileWriter::Flush() {
  for (size_t done = 0; done < buffer_.size();) {
    const ssize_t written = ::write(descriptor_, buffer_.data() + done, buffer_.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return SystemError(path_, "cannot be written", errno);
    done += static_cast<size_t>(written);
  }
  buffer_.clear();
  return absl::OkStatus();
}

absl::StatusOr<PartFileReader> PartFileReader::Open(const std::string& path, int64_t offset) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return SystemError(path, "cannot be opened", errno);
  PartFileReader reader(path, descriptor);
  if (offset > 0 && ::lseek(descriptor, offset, SEEK_SET) != offset) {
    return SystemError(path, "cannot be read from its middle", errno);
  }
  return reader;
}

PartFileReader::PartFileReader(PartFileReader&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      buffer_(std::move(other.buffer_)),
      at_(other.at_) {}

PartFileReader::~PartFileReader() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

absl::StatusOr<bool> PartFileReader::Read(void* data, size_t bytes) {
  char* to = static_cast<char*>(data);
  for (size_t done = 0; done < bytes;) {
    if (at_ == buffer_.size()) {
      buffer_.resize(kBufferBytes);
      const ssize_t got = ::read(descriptor_, buffer_.data(), buffer_.size());
      const int error = errno;
      buffer_.resize(got > 0 ? static_cast<size_t>(got) : 0);
      at_ = 0;
      if (got < 0 && error == EINTR) continue;
      if (got < 0) return SystemError(path_, "cannot be read", error);
      if (got == 0 && done == 0) return false;
      if (got == 0) return absl::DataLossError(absl::StrCat(path_, ": became shorter"));
    }
    const size_t part = std::min(bytes - done, buffer_.size() - at_);
    std::memcpy(to + done, buffer_.data() + at_, part);
    at_ += part;
    done += part;
  }
  return true;
}

}  // namespace plait
