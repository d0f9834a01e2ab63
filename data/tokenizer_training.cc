#include "data/tokenizer_training.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "data/sentencepiece_model.h"
#include "data/sentencepiece_scan.h"
#include "data/utf8.h"

namespace plait {
namespace {

constexpr int64_t kSmallestVocabulary = 3 + 256 + 1;
constexpr int64_t kMaxSentenceBytes = 8192;

// Cuts texts into lines that keep their newline, and these into pieces of bounded length, cut at a
// space where there is one. No piece of the vocabulary can then hold a newline before its end.
class SentenceStream {
 public:
  explicit SentenceStream(const std::function<bool(std::string*)>& next) : next_(next) {}

  bool Next(std::string* sentence) {
    while (rest_.empty()) {
      if (!next_(&text_)) return false;
      rest_ = text_;
    }
    size_t end = std::min(rest_.find('\n'), rest_.size() - 1) + 1;
    if (end > static_cast<size_t>(kMaxSentenceBytes)) {
      const size_t space = rest_.rfind(' ', static_cast<size_t>(kMaxSentenceBytes) - 1);
      end = space != std::string_view::npos && space > 0
                ? space
                : static_cast<size_t>(Utf8CutBefore(rest_, kMaxSentenceBytes));
    }
    *sentence = std::string(rest_.substr(0, end));
    rest_.remove_prefix(end);
    return true;
  }

 private:
  const std::function<bool(std::string*)>& next_;
  std::string text_;
  std::string_view rest_;
};

}  // namespace

absl::Status CheckVocabularySize(int64_t vocabulary_size) {
  if (vocabulary_size >= kSmallestVocabulary && vocabulary_size <= kMaxPieces)
    return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("vocabulary size ", vocabulary_size,
                                                 " is not from ", kSmallestVocabulary, " to ",
                                                 kMaxPieces));
}

absl::StatusOr<std::string> TrainTokenizer(const TokenizerTrainingOptions& options,
                                           const std::function<bool(std::string*)>& next) {
  PLAIT_RETURN_IF_ERROR(CheckVocabularySize(options.vocabulary_size));
  const std::vector<std::pair<std::string, std::string>> settings = {
      {"model_type", "bpe"},
      {"vocab_size", absl::StrCat(options.vocabulary_size)},
      {"character_coverage", absl::StrCat(options.character_coverage)},
      {"byte_fallback", "true"},
      {"split_digits", "true"},
      {"allow_whitespace_only_pieces", "true"},
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"unk_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"pad_id", "-1"},
      {"max_sentence_length", absl::StrCat(kMaxSentenceBytes)},
      {"hard_vocab_limit",
       "false"},             // a vocabulary that stays smaller is refused below, with its size
      {"num_threads", "2"},  // written into the model file: the same everywhere
      {"minloglevel", "3"},
  };
  SentenceStream sentences(next);
  std::string model_bytes;
  const std::string error = TrainSentencePieceModel(
      settings, [&sentences](std::string* sentence) { return sentences.Next(sentence); },
      &model_bytes);
  if (!error.empty())
    return absl::InvalidArgumentError(absl::StrCat("tokenizer training failed: ", error));
  PLAIT_ASSIGN_OR_RETURN(const ScannedModel model, ScanSentencePieceModel(model_bytes));
  if (static_cast<int64_t>(model.pieces.size()) < options.vocabulary_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text gives a vocabulary of ", model.pieces.size(), " at most, asked for ",
                     options.vocabulary_size, ": ask for less or give more text"));
  }
  return model_bytes;
}

}  // namespace plait
