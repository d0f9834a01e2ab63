// One safetensors file, mapped into memory for reading: the header is checked as a whole
// (safetensors_header.h), the tensors' bytes are read where they lie. Pages that were read stay
// resident until Release.
#pragma once

#include <cstddef>
#include <string>

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
  // Starts to read those bytes from the device.
  void Prefetch(int64_t begin, int64_t size) const;
  // Lets the pages of those bytes go; they are read again when they are next looked at.
  void Release(int64_t begin, int64_t size) const;

 private:
  SafetensorsFile() = default;
  void Advise(int64_t begin, int64_t size, int advice) const;

  std::string path_;
  SafetensorsHeader header_;
  char* mapping_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace plait
