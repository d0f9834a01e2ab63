// InputFile: a file read from one end to the other, unpacked on the way where it is gzip or
// zstandard. Which of them it is, its first bytes tell, not its name. Streams one after the other
// in one file are read as one, as gzip and zstd themselves do. The sole owner of zlib and libzstd.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace plait {

enum class Compression { kNone, kGzip, kZstandard };

class InputFile {
 public:
  // What the file's first bytes tell. Errors of SystemError.
  static absl::StatusOr<Compression> CompressionOf(const std::string& path);
  // From byte `offset` of the file, which for compressed files must be 0.
  static absl::StatusOr<InputFile> Open(const std::string& path, int64_t offset = 0);

  InputFile(InputFile&&) noexcept;
  InputFile& operator=(InputFile&&) noexcept;
  ~InputFile();

  // Up to `capacity` > 0 unpacked bytes into `data`; returns how many, 0 at the end. DataLoss,
  // naming the file, where it cannot be read, is damaged or ends in the middle of a stream.
  absl::StatusOr<size_t> Read(char* data, size_t capacity);

  // Bytes of the file as it is stored that were read so far.
  int64_t stored_bytes_read() const;

 private:
  class Source;
  class Decoder;
  class Gzip;
  class Zstandard;

  InputFile();

  std::unique_ptr<Source> source_;
  std::unique_ptr<Decoder> decoder_;  // absent for plain files
};

// All of it, unpacked. InvalidArgument where that is longer than `max_bytes`.
absl::StatusOr<std::string> ReadWholeInputFile(const std::string& path, int64_t max_bytes);

}  // namespace plait
