// Temporary files of one run of `plait prepare`, written by one rank and read by others on the same
// file system: runs of bytes, nothing else. They are not synced; the folder they lie in goes when
// the run ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace plait {

class PartFileWriter {
 public:
  // Errors of SystemError, here and below (ResourceExhausted where the disk is full).
  static absl::StatusOr<PartFileWriter> Create(const std::string& path);

  PartFileWriter(PartFileWriter&& other) noexcept;
  PartFileWriter& operator=(PartFileWriter&&) = delete;
  ~PartFileWriter();

  absl::Status Append(const void* data, size_t bytes);
  // Writes what is buffered and closes: others may read then.
  absl::Status Close();

 private:
  PartFileWriter(std::string path, int descriptor)
      : path_(std::move(path)), descriptor_(descriptor) {}
  absl::Status Flush();

  std::string path_;
  int descriptor_;
  std::string buffer_;
};

class PartFileReader {
 public:
  // From byte `offset` on.
  static absl::StatusOr<PartFileReader> Open(const std::string& path, int64_t offset = 0);

  PartFileReader(PartFileReader&& other) noexcept;
  PartFileReader& operator=(PartFileReader&&) = delete;
  ~PartFileReader();

  // Exactly `bytes`. False where the file ends before the first of them; DataLoss where it ends
  // after.
  absl::StatusOr<bool> Read(void* data, size_t bytes);

 private:
  PartFileReader(std::string path, int descriptor)
      : path_(std::move(path)), descriptor_(descriptor) {}

  std::string path_;
  int descriptor_;
  std::string buffer_;  // what was read ahead; bytes before at_ were given out
  size_t at_ = 0;
};

}  // namespace plait
