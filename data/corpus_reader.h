// CorpusReader: documents of text and JSONL files, in one order on every machine.
// Inputs are files or folders; a folder stands for its files, recursively, sorted by path in byte
// order, hidden ones left out. A file that ends in .jsonl holds one document a line, the string
// under `text_field`; blank lines are skipped. Any other file is one document. Everything is UTF-8.
#pragma once

#include <cstdint>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace plait {

struct Document {
  // "folder/file.txt" relative to the input (a file alone: its name); "file.jsonl:12" for line 12.
  // Does not tell where the input lies, so that it means the same on every machine.
  std::string name;
  std::string text;
};

class CorpusReader {
 public:
  // NotFound for an input that does not exist; InvalidArgument for a folder without files.
  static absl::StatusOr<CorpusReader> Open(const std::vector<std::string>& inputs,
                                           const std::string& text_field);

  CorpusReader(CorpusReader&&) noexcept;
  CorpusReader& operator=(CorpusReader&&) noexcept;
  ~CorpusReader();

  // The next document; nothing after the last. InvalidArgument, naming the file (and line), for an
  // empty file or text, for invalid UTF-8 (with the byte offset in the file), for a line that is
  // not a JSON object, and for one without the field.
  absl::StatusOr<std::optional<Document>> Next();
  // From the first document again.
  void Restart();

  // Bytes of the files, and of those read so far.
  int64_t total_bytes() const { return total_bytes_; }
  int64_t bytes_read() const { return bytes_read_; }

 private:
  struct File {
    std::string path;
    std::string name;
    int64_t bytes = 0;
  };
  struct JsonParser;

  CorpusReader();
  absl::StatusOr<std::optional<Document>> NextLine();

  std::vector<File> files_;
  std::string text_field_;
  int64_t total_bytes_ = 0;
  int64_t bytes_read_ = 0;
  size_t file_ = 0;
  // Of the JSONL file being read.
  std::ifstream lines_;
  int64_t line_number_ = 0;
  int64_t line_offset_ = 0;
  int64_t documents_in_file_ = 0;
  std::unique_ptr<JsonParser> json_;
};

}  // namespace plait
