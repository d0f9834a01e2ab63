// One safetensors file, mapped into memory: the header is checked as a whole
// (safetensors_header.h), the tensors' bytes can be looked at where they lie, or streamed by Read,
// where they are needed once and should not stay resident.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/safetensors_header.h"

namespace plait {

class SafetensorsFile {
 public:
  // NotFound, DataLoss. A file that becomes shorter while it is open ends the process.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&& other) noexcept;
  ~SafetensorsFile();

  const std::string& path() const { return path_; }
  const SafetensorsHeader& header() const { return header_; }

  // Bytes [begin, begin + size) of the data after the header, from 0 to the last tensor's end.
  const char* Data(int64_t begin, int64_t size) const;
  // Copies those bytes to `to`, and lets the device begin with what comes a few MiB later. DataLoss
  // where the file has become shorter, errors of SystemError.
  absl::Status Read(int64_t begin, int64_t size, void* to) const;

 private:
  SafetensorsFile() = default;

  std::string path_;
  SafetensorsHeader header_;
  char* mapping_ = nullptr;
  size_t bytes_ = 0;
  int descriptor_ = -1;
};

}  // namespace plait
