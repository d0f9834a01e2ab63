#include "data/corpus_reader.h"

#include <simdjson.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/durable_file.h"
#include "base/status_macros.h"
#include "data/utf8.h"

namespace plait {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxDocumentBytes = int64_t{1} << 31;
constexpr size_t kMaxLineBytes = size_t{1} << 30;
constexpr size_t kMaxJsonDepth = 32;

bool IsJsonLines(const std::string& path) { return path.ends_with(".jsonl"); }

absl::Status Invalid(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

absl::Status CheckUtf8(const std::string& path, std::string_view text, int64_t begins_at) {
  const int64_t offset = FirstInvalidUtf8(text);
  if (offset < 0) return absl::OkStatus();
  return Invalid(path, absl::StrCat("invalid UTF-8 at byte ", begins_at + offset,
                                    "; convert the file to UTF-8"));
}

}  // namespace

struct CorpusReader::JsonParser {
  simdjson::dom::parser parser;
};

CorpusReader::CorpusReader() : json_(std::make_unique<JsonParser>()) {}
CorpusReader::CorpusReader(CorpusReader&&) noexcept = default;
CorpusReader& CorpusReader::operator=(CorpusReader&&) noexcept = default;
CorpusReader::~CorpusReader() = default;

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
        if (hidden && entry->is_directory()) entry.disable_recursion_pending();
        if (hidden || !entry->is_regular_file()) continue;
        found.push_back(
            {entry->path().string(), entry->path().lexically_relative(input).string(), 0});
      }
      if (error) return SystemError(input, "cannot be listed", error.value());
      if (found.empty()) return Invalid(input, "the folder has no files");
      std::sort(found.begin(), found.end(),
                [](const File& a, const File& b) { return a.name < b.name; });
    } else if (fs::is_regular_file(input, error)) {
      found.push_back({input, fs::path(input).filename().string(), 0});
    } else {
      return absl::NotFoundError(absl::StrCat(input, ": no such file or folder"));
    }
    for (File& file : found) {
      file.bytes = static_cast<int64_t>(fs::file_size(file.path, error));
      if (error) return absl::NotFoundError(absl::StrCat(file.path, ": ", error.message()));
      if (file.bytes == 0)
        return Invalid(file.path, "the file is empty; remove it or leave it out");
      reader.total_bytes_ += file.bytes;
      reader.files_.push_back(std::move(file));
    }
  }
  if (reader.files_.empty()) return absl::InvalidArgumentError("no input given");
  return reader;
}

void CorpusReader::Restart() {
  file_ = 0;
  bytes_read_ = 0;
  lines_.close();
}

absl::StatusOr<std::optional<Document>> CorpusReader::Next() {
  while (file_ < files_.size()) {
    const File& file = files_[file_];
    if (!IsJsonLines(file.path)) {
      ++file_;
      Document document;
      document.name = file.name;
      PLAIT_ASSIGN_OR_RETURN(document.text, ReadWholeFile(file.path, kMaxDocumentBytes));
      bytes_read_ += static_cast<int64_t>(document.text.size());
      PLAIT_RETURN_IF_ERROR(CheckUtf8(file.path, document.text, 0));
      return document;
    }
    if (!lines_.is_open()) {
      lines_.clear();
      lines_.open(file.path, std::ios::binary);
      if (!lines_.is_open())
        return absl::NotFoundError(absl::StrCat(file.path, ": cannot be opened"));
      line_number_ = line_offset_ = documents_in_file_ = 0;
    }
    PLAIT_ASSIGN_OR_RETURN(std::optional<Document> document, NextLine());
    if (document.has_value()) return document;
    lines_.close();
    ++file_;
    if (documents_in_file_ == 0) return Invalid(file.path, "has no documents: every line is blank");
  }
  return std::nullopt;
}

absl::StatusOr<std::optional<Document>> CorpusReader::NextLine() {
  const File& file = files_[file_];
  std::string line;
  while (std::getline(lines_, line)) {
    const int64_t begins_at = line_offset_;
    ++line_number_;
    line_offset_ += static_cast<int64_t>(line.size()) + 1;
    bytes_read_ += static_cast<int64_t>(line.size()) + 1;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    PLAIT_RETURN_IF_ERROR(CheckUtf8(file.path, line, begins_at));
    const std::string where = absl::StrCat(file.path, ":", line_number_);
    if (line.size() > kMaxLineBytes)
      return Invalid(where, absl::StrCat("longer than ", kMaxLineBytes, " bytes"));
    simdjson::dom::parser& parser = json_->parser;
    if (parser.capacity() < line.size() &&
        parser.allocate(std::max<size_t>(2 * line.size(), 1 << 16), kMaxJsonDepth) !=
            simdjson::SUCCESS) {
      return absl::ResourceExhaustedError(
          absl::StrCat(where, ": no memory for a line of ", line.size(), " bytes"));
    }
    simdjson::dom::object object;
    std::string_view text;
    if (const auto error = parser.parse(line).get(object)) {
      return Invalid(where, absl::StrCat("not a JSON object: ", simdjson::error_message(error)));
    }
    if (object[text_field_].get(text) != simdjson::SUCCESS) {
      return Invalid(where, absl::StrCat("no string under \"", text_field_,
                                         "\"; say which field is the text with --text-field"));
    }
    if (text.empty())
      return Invalid(where, absl::StrCat("the string under \"", text_field_, "\" is empty"));
    ++documents_in_file_;
    return Document{absl::StrCat(file.name, ":", line_number_), std::string(text)};
  }
  if (lines_.bad()) return absl::DataLossError(absl::StrCat(file.path, ": cannot be read"));
  return std::nullopt;
}

}  // namespace plait
