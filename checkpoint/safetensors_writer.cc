#include "checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/durable_file.h"
#include "base/status_macros.h"

namespace plait {

absl::Status SafetensorsWriter::Create(const std::string& path, const SafetensorsHeader& header) {
  if (::access(path.c_str(), F_OK) == 0) {
    return absl::AlreadyExistsError(absl::StrCat(path, ": exists"));
  }
  PLAIT_RETURN_IF_ERROR(WriteFileDurably(path, SafetensorsHeaderBytes(header)));
  const int64_t data_bytes = header.tensors.empty() ? 0 : header.tensors.back().end;
  if (::truncate(path.c_str(), header.data_offset + data_bytes) != 0) {
    return SystemError(path, "cannot be made long enough", errno);
  }
  return ReserveFileSpace(path, header.data_offset + data_bytes);
}

absl::StatusOr<SafetensorsWriter> SafetensorsWriter::Open(const std::string& path,
                                                          const SafetensorsHeader& header) {
  SafetensorsWriter writer;
  writer.path_ = path;
  writer.data_offset_ = header.data_offset;
  writer.descriptor_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (writer.descriptor_ < 0) return SystemError(path, "cannot be opened", errno);
  return writer;
}

SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&& other) noexcept {
  *this = std::move(other);
}

SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&& other) noexcept {
  if (this == &other) return *this;
  if (descriptor_ >= 0) ::close(descriptor_);
  path_ = std::move(other.path_);
  data_offset_ = other.data_offset_;
  descriptor_ = std::exchange(other.descriptor_, -1);
  return *this;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

absl::Status SafetensorsWriter::Write(int64_t begin, const void* data, int64_t size) {
  const char* from = static_cast<const char*>(data);
  const int64_t first = data_offset_ + begin;
  for (int64_t done = 0; done < size;) {
    const auto piece = static_cast<size_t>(NextWriteBytes(first + done, size - done));
    const ssize_t written = ::pwrite(descriptor_, from + done, piece, first + done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return SystemError(path_, "cannot be written", errno);
    done += written;
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  const int descriptor = std::exchange(descriptor_, -1);
  const int error = ::fsync(descriptor) != 0 ? errno : 0;
  ::close(descriptor);
  return error == 0 ? absl::OkStatus()
                    : SystemError(path_, "cannot be synced to the device", error);
}

}  // namespace plait
