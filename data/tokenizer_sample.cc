#include "data/tokenizer_sample.h"

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "base/status_macros.h"

namespace plait {
namespace {

constexpr size_t kBlockBytes = 1 << 16;

// A text as the file has it: its length, then its bytes.
absl::Status AppendText(PartFileWriter& file, std::string_view text) {
  const int64_t bytes = static_cast<int64_t>(text.size());
  PLAIT_RETURN_IF_ERROR(file.Append(&bytes, sizeof(bytes)));
  return file.Append(text.data(), text.size());
}

absl::Status WriteBlocks(const Document& document, const TokenizerSampleOptions& options,
                         PartFileWriter& file) {
  const RandomKey key(options.seed, RandomPurpose::kSampleOrder, "tokenizer/" + document.name);
  const std::string_view text = document.text;
  uint64_t block = 0;
  for (size_t at = 0; at < text.size();) {
    size_t end = text.find('\n', at + kBlockBytes);
    end = end == std::string_view::npos ? text.size() : end + 1;
    if (options.fraction >= 1 || key.Uniform(block) < options.fraction) {
      PLAIT_RETURN_IF_ERROR(AppendText(file, text.substr(at, end - at)));
    }
    ++block;
    at = end;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteTokenizerSample(CorpusReader& corpus, const HeldoutChoice& choice,
                                  const TokenizerSampleOptions& options, const std::string& path,
                                  const std::function<bool()>& go_on) {
  PLAIT_ASSIGN_OR_RETURN(PartFileWriter file, PartFileWriter::Create(path));
  while (true) {
    PLAIT_ASSIGN_OR_RETURN(const std::optional<Document> document, corpus.Next());
    if (!go_on() || !document.has_value()) break;
    if (choice.IsHeldOut(document->name)) continue;
    PLAIT_RETURN_IF_ERROR(WriteBlocks(*document, options, file));
  }
  return file.Close();
}

bool TokenizerSampleReader::Next(std::string* text) {
  if (!status_.ok()) return false;
  const absl::StatusOr<bool> found = TryNext(text);
  status_ = found.status();
  return found.ok() && *found;
}

absl::StatusOr<bool> TokenizerSampleReader::TryNext(std::string* text) {
  for (; file_ < files_; ++file_, reader_.reset()) {
    if (!reader_.has_value()) {
      PLAIT_ASSIGN_OR_RETURN(PartFileReader opened, PartFileReader::Open(path_(file_)));
      reader_.emplace(std::move(opened));
    }
    int64_t bytes = 0;
    PLAIT_ASSIGN_OR_RETURN(const bool found, reader_->Read(&bytes, sizeof(bytes)));
    if (!found) continue;
    text->resize(static_cast<size_t>(bytes));
    PLAIT_ASSIGN_OR_RETURN(const bool whole, reader_->Read(text->data(), text->size()));
    if (whole || bytes == 0) return true;
    return absl::DataLossError(absl::StrCat(path_(file_), ": became shorter"));
  }
  return false;
}

}  // namespace plait
