// LineReader: the lines of a file, plain or compressed, one after the other.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "data/compressed_file.h"

namespace plait {

class LineReader {
 public:
  // From byte `offset` of the file, which for compressed files must be 0.
  static absl::StatusOr<LineReader> Open(const std::string& path, int64_t offset = 0);

  // The next line without its newline, valid until the next call; nothing after the last. Errors
  // of InputFile; InvalidArgument, naming the file, for a line longer than `max_bytes`.
  absl::StatusOr<std::optional<std::string_view>> Next(int64_t max_bytes);

  // Where the next line begins, in unpacked bytes from the beginning of the file.
  int64_t offset() const { return offset_; }
  // Bytes of the file as it is stored, from where it was opened on, that were read.
  int64_t stored_bytes_read() const { return file_.stored_bytes_read(); }

 private:
  LineReader(std::string path, InputFile file, int64_t offset)
      : path_(std::move(path)), file_(std::move(file)), offset_(offset) {}

  std::string path_;
  InputFile file_;
  int64_t offset_;
  std::string block_;  // unpacked bytes; those before at_ were given out
  size_t at_ = 0;
  bool at_end_ = false;
};

}  // namespace plait
