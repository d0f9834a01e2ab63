// CorpusReader: documents of text and JSONL files, in one order on every machine.
// Inputs are files or folders; a folder stands for its files, recursively, sorted by path in byte
// order, hidden ones left out. A file that ends in .jsonl holds one document a line, the string
// under `text_field`; blank lines are skipped. Any other file is one document. Everything is UTF-8.
// Files may be gzip or zstandard, as their content tells; names and the order are then those of the
// unpacked files, without .gz or .zst.
//
// Several readers may share a corpus: each takes the documents whose first byte lies in its range
// of the files laid one after the other as they are stored. A compressed file is never divided: it
// belongs to whoever has its first byte.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "data/line_reader.h"

namespace plait {

struct Document {
  // "folder/file.txt" relative to the input (a file alone: its name); "file.jsonl:12" for line 12.
  // Does not tell where the input lies, so that it means the same on every machine.
  std::string name;
  std::string text;
};

class CorpusReader {
 public:
  // NotFound for an input that does not exist; InvalidArgument for a folder without files and for
  // an empty file; DataLoss for a file named .gz or .zst that is not.
  static absl::StatusOr<CorpusReader> Open(const std::vector<std::string>& inputs,
                                           const std::string& text_field);

  CorpusReader(CorpusReader&&) noexcept;
  CorpusReader& operator=(CorpusReader&&) noexcept;
  ~CorpusReader();

  // The next document; nothing after the last. InvalidArgument, naming the file (and line), for an
  // empty file or text, for invalid UTF-8 (with the byte offset in the unpacked file), for a line
  // that is not a JSON object, and for one without the field. NotFound for a file that vanished.
  // Errors of InputFile.
  absl::StatusOr<std::optional<Document>> Next();
  // From the first document again.
  void Restart();

  // Takes bytes [begin, end) of the corpus from here on, from the first document again.
  // lines_before: newlines before `begin` in the file that lies there; 0 where none is divided.
  void SetRange(int64_t begin, int64_t end, int64_t lines_before);
  // Where a position in the corpus divides a file, the index of that file; else nothing.
  std::optional<int64_t> DividedFile(int64_t position) const;
  // Newlines of the file that `end` divides in its bytes from `begin` (of the corpus) on.
  absl::StatusOr<int64_t> CountNewlines(int64_t begin, int64_t end) const;

  // Names and lengths of all files: the same on every rank that sees the same corpus.
  std::string Listing() const;
  // Bytes of all files as they are stored.
  int64_t total_bytes() const { return total_bytes_; }
  // Of this reader's range, read so far.
  int64_t bytes_read() const;

 private:
  struct File {
    std::string path;
    std::string name;
    int64_t begin = 0;  // in the corpus
    int64_t bytes = 0;
    bool is_json_lines = false;
    bool is_compressed = false;
    int64_t end() const { return begin + bytes; }
    bool divisible() const { return is_json_lines && !is_compressed; }
  };
  struct JsonParser;

  CorpusReader();
  static absl::Status Inspect(File& file);
  absl::Status OpenLines();
  absl::StatusOr<std::optional<Document>> NextDocumentLine();
  absl::StatusOr<Document> ParseLine(std::string_view line, int64_t begins_at);
  absl::Status CheckHasDocuments();

  std::vector<File> files_;
  std::string text_field_;
  int64_t total_bytes_ = 0;
  int64_t range_begin_ = 0;
  int64_t range_end_ = 0;
  int64_t lines_before_ = 0;
  size_t file_ = 0;
  int64_t position_ = 0;  // in the corpus
  // Of the JSONL file being read.
  std::optional<LineReader> lines_;
  int64_t line_number_ = 0;
  int64_t documents_in_file_ = 0;
  std::unique_ptr<JsonParser> json_;
};

}  // namespace plait
