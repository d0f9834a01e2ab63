#include "data/corpus_reader.h"

#include <simdjson.h>

#include <algorithm>
#include <filesystem>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/durable_file.h"
#include "base/json_numbers.h"
#include "base/status_macros.h"
#include "data/utf8.h"

namespace plait {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxDocumentBytes = int64_t{1} << 31;
constexpr int64_t kMaxLineBytes = int64_t{1} << 30;
constexpr size_t kMaxJsonDepth = 32;

absl::Status Invalid(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

absl::Status CheckUtf8(const std::string& path, std::string_view text, int64_t begins_at) {
  const int64_t offset = FirstInvalidUtf8(text);
  if (offset < 0) return absl::OkStatus();
  return Invalid(path, absl::StrCat("invalid UTF-8 at byte ", begins_at + offset,
                                    "; convert the file to UTF-8"));
}

absl::Status IsEmpty(const std::string& path) {
  return Invalid(path, "the file is empty; remove it or leave it out");
}

bool IsBlank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

}  // namespace

struct CorpusReader::JsonParser {
  simdjson::dom::parser parser;
};

CorpusReader::CorpusReader() : json_(std::make_unique<JsonParser>()) {}
CorpusReader::CorpusReader(CorpusReader&&) noexcept = default;
CorpusReader& CorpusReader::operator=(CorpusReader&&) noexcept = default;
CorpusReader::~CorpusReader() = default;

// Fills in what the file itself tells.
absl::Status CorpusReader::Inspect(File& file) {
  std::error_code error;
  file.bytes = static_cast<int64_t>(fs::file_size(file.path, error));
  if (error) return absl::NotFoundError(absl::StrCat(file.path, ": ", error.message()));
  if (file.bytes == 0) return IsEmpty(file.path);
  PLAIT_ASSIGN_OR_RETURN(const Compression compression, InputFile::CompressionOf(file.path));
  file.is_compressed = compression != Compression::kNone;
  const fs::path name(file.name);
  const std::string suffix = name.extension().string();
  if (suffix == ".gz" || suffix == ".zst") {
    if (compression != (suffix == ".gz" ? Compression::kGzip : Compression::kZstandard)) {
      return absl::DataLossError(absl::StrCat(file.path, ": is not what its ending ", suffix,
                                              " says: damaged, or to be renamed"));
    }
    file.name.resize(file.name.size() - suffix.size());
  }
  file.is_json_lines = file.name.ends_with(".jsonl");
  return absl::OkStatus();
}

absl::StatusOr<CorpusReader> CorpusReader::Open(const std::vector<std::string>& inputs,
                                                const std::string& text_field) {
  CorpusReader reader;
  reader.text_field_ = text_field;
  for (const std::string& input : inputs) {
    std::error_code error;
    std::vector<File> found;
    if (fs::is_directory(input, error)) {
      fs::recursive_directory_iterator entry(input, error), end;
      for (; !error && entry != end; entry.increment(error)) {
        const bool hidden = entry->path().filename().string().front() == '.';
        if (hidden && entry->is_directory(error)) entry.disable_recursion_pending();
        if (hidden) continue;
        const bool is_file = entry->is_regular_file(error);
        if (error) return SystemError(entry->path().string(), "cannot be read", error.value());
        if (!is_file) continue;
        found.push_back({entry->path().string(), entry->path().lexically_relative(input).string()});
      }
      if (error) return SystemError(input, "cannot be listed", error.value());
      if (found.empty()) return Invalid(input, "the folder has no files");
    } else if (fs::is_regular_file(input, error)) {
      found.push_back({input, fs::path(input).filename().string()});
    } else {
      return absl::NotFoundError(absl::StrCat(input, ": no such file or folder"));
    }
    for (File& file : found) PLAIT_RETURN_IF_ERROR(Inspect(file));
    std::sort(found.begin(), found.end(), [](const File& a, const File& b) {
      return std::tie(a.name, a.path) < std::tie(b.name, b.path);
    });
    for (File& file : found) {
      file.begin = reader.total_bytes_;
      reader.total_bytes_ += file.bytes;
      reader.files_.push_back(std::move(file));
    }
  }
  if (reader.files_.empty()) return absl::InvalidArgumentError("no input given");
  reader.SetRange(0, reader.total_bytes_, 0);
  return reader;
}

void CorpusReader::SetRange(int64_t begin, int64_t end, int64_t lines_before) {
  range_begin_ = begin;
  range_end_ = end;
  lines_before_ = lines_before;
  Restart();
}

void CorpusReader::Restart() {
  lines_.reset();
  position_ = range_begin_;
  file_ = static_cast<size_t>(DividedFile(range_begin_).value_or(0));
  while (file_ < files_.size() && files_[file_].begin < range_begin_ &&
         !(files_[file_].divisible() && range_begin_ < files_[file_].end())) {
    ++file_;
  }
}

std::optional<int64_t> CorpusReader::DividedFile(int64_t position) const {
  const auto file = std::partition_point(files_.begin(), files_.end(),
                                         [position](const File& f) { return f.end() <= position; });
  if (file == files_.end() || file->begin >= position || !file->divisible()) return std::nullopt;
  return file - files_.begin();
}

absl::StatusOr<int64_t> CorpusReader::CountNewlines(int64_t begin, int64_t end) const {
  const std::optional<int64_t> divided = DividedFile(end);
  if (!divided.has_value()) return 0;
  const File& file = files_[static_cast<size_t>(*divided)];
  const int64_t from = std::max(begin, file.begin) - file.begin;
  PLAIT_ASSIGN_OR_RETURN(InputFile input, InputFile::Open(file.path, from));
  std::string block(1 << 18, '\0');
  int64_t newlines = 0;
  for (int64_t left = end - file.begin - from; left > 0;) {
    const size_t wanted = std::min<size_t>(block.size(), static_cast<size_t>(left));
    PLAIT_ASSIGN_OR_RETURN(const size_t got, input.Read(block.data(), wanted));
    if (got == 0) {
      return absl::DataLossError(absl::StrCat(file.path, ": became shorter while it was read"));
    }
    newlines += std::count(block.begin(), block.begin() + static_cast<ptrdiff_t>(got), '\n');
    left -= static_cast<int64_t>(got);
  }
  return newlines;
}

std::string CorpusReader::Listing() const {
  std::string listing;
  for (const File& file : files_) absl::StrAppend(&listing, file.name, "\n", file.bytes, "\n");
  return listing;
}

int64_t CorpusReader::bytes_read() const {
  return std::clamp(position_, range_begin_, range_end_) - range_begin_;
}

absl::StatusOr<std::optional<Document>> CorpusReader::Next() {
  while (file_ < files_.size()) {
    const File& file = files_[file_];
    if (!lines_.has_value() && file.begin >= range_end_) break;
    if (!file.is_json_lines) {
      ++file_;
      Document document;
      document.name = file.name;
      PLAIT_ASSIGN_OR_RETURN(document.text, ReadWholeInputFile(file.path, kMaxDocumentBytes));
      position_ = file.end();
      if (document.text.empty()) return IsEmpty(file.path);
      PLAIT_RETURN_IF_ERROR(CheckUtf8(file.path, document.text, 0));
      return document;
    }
    if (!lines_.has_value()) PLAIT_RETURN_IF_ERROR(OpenLines());
    PLAIT_ASSIGN_OR_RETURN(std::optional<Document> document, NextDocumentLine());
    if (document.has_value()) return document;
    PLAIT_RETURN_IF_ERROR(CheckHasDocuments());
    lines_.reset();
    position_ = file.end();
    ++file_;
  }
  position_ = range_end_;
  return std::nullopt;
}

// Opens the lines of the current file, where the range begins inside it at the first one that does.
absl::Status CorpusReader::OpenLines() {
  const File& file = files_[file_];
  const int64_t begin = std::max<int64_t>(range_begin_ - file.begin, 0);
  documents_in_file_ = 0;
  line_number_ = begin > 0 ? lines_before_ : 0;
  // A byte before: where that is a newline, a line begins at `begin`.
  PLAIT_ASSIGN_OR_RETURN(lines_, LineReader::Open(file.path, begin > 0 ? begin - 1 : 0));
  if (begin == 0) return absl::OkStatus();
  PLAIT_RETURN_IF_ERROR(lines_->Next(kMaxLineBytes).status());
  if (lines_->offset() > begin) ++line_number_;
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Document>> CorpusReader::NextDocumentLine() {
  const File& file = files_[file_];
  while (!file.divisible() || file.begin + lines_->offset() < range_end_) {
    const int64_t begins_at = lines_->offset();
    PLAIT_ASSIGN_OR_RETURN(const std::optional<std::string_view> line, lines_->Next(kMaxLineBytes));
    position_ = file.begin + (file.is_compressed ? lines_->stored_bytes_read() : lines_->offset());
    if (!line.has_value()) break;
    ++line_number_;
    if (IsBlank(*line)) continue;
    PLAIT_ASSIGN_OR_RETURN(Document document, ParseLine(*line, begins_at));
    ++documents_in_file_;
    return document;
  }
  return std::nullopt;
}

absl::StatusOr<Document> CorpusReader::ParseLine(std::string_view line, int64_t begins_at) {
  const File& file = files_[file_];
  PLAIT_RETURN_IF_ERROR(CheckUtf8(file.path, line, begins_at));
  const std::string where = absl::StrCat(file.path, ":", line_number_);
  simdjson::dom::parser& parser = json_->parser;
  if (parser.capacity() < line.size() && parser.allocate(std::max<size_t>(2 * line.size(), 1 << 16),
                                                         kMaxJsonDepth) != simdjson::SUCCESS) {
    return absl::ResourceExhaustedError(
        absl::StrCat(where, ": no memory for a line of ", line.size(), " bytes"));
  }
  simdjson::dom::object object;
  std::string_view text;
  simdjson::error_code error = parser.parse(line.data(), line.size()).get(object);
  // Fields beside the text may hold what Python writes: integers of any length, NaN.
  if (error) error = parser.parse(WithReadableNumbers(line, NotFinite::kNull)).get(object);
  if (error) {
    return Invalid(where, absl::StrCat("not a JSON object: ", simdjson::error_message(error)));
  }
  if (object[text_field_].get(text) != simdjson::SUCCESS) {
    return Invalid(where, absl::StrCat("no string under \"", text_field_,
                                       "\"; say which field is the text with --text-field"));
  }
  if (text.empty())
    return Invalid(where, absl::StrCat("the string under \"", text_field_, "\" is empty"));
  return Document{absl::StrCat(file.name, ":", line_number_), std::string(text)};
}

// A file without documents is an error, which the reader that has its beginning tells.
absl::Status CorpusReader::CheckHasDocuments() {
  const File& file = files_[file_];
  if (documents_in_file_ > 0 || file.begin < range_begin_) return absl::OkStatus();
  while (true) {
    PLAIT_ASSIGN_OR_RETURN(const std::optional<std::string_view> line, lines_->Next(kMaxLineBytes));
    if (!line.has_value()) return Invalid(file.path, "has no documents: every line is blank");
    if (!IsBlank(*line)) return absl::OkStatus();
  }
}

}  // namespace plait
