// Writes one safetensors file in pieces, in any order, by one process or by several that each write
// tensors of their own.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/safetensors_header.h"

namespace plait {

class SafetensorsWriter {
 public:
  // A new file with the header (MakeSafetensorsHeader) and room for its tensors; synced.
  // AlreadyExists, and errors of SystemError.
  static absl::Status Create(const std::string& path, const SafetensorsHeader& header);
  // To write into a file that Create made.
  static absl::StatusOr<SafetensorsWriter> Open(const std::string& path,
                                                const SafetensorsHeader& header);

  SafetensorsWriter(SafetensorsWriter&& other) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&& other) noexcept;
  ~SafetensorsWriter();

  // Bytes [begin, begin + size) of the data after the header.
  absl::Status Write(int64_t begin, const void* data, int64_t size);
  // Waits until what was written is on the device, and closes.
  absl::Status Finish();

 private:
  SafetensorsWriter() = default;

  std::string path_;
  int64_t data_offset_ = 0;
  int descriptor_ = -1;
};

}  // namespace plait
