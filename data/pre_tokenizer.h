// `pre_tokenizer` of a tokenizer.json: how a text is cut into words, each of which is encoded by
// itself. Sequence, Metaspace, ByteLevel (last), Split (at a string, or by an expression of
// word_scanner.h) and Digits; others are refused.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "data/json_value.h"
#include "data/word_scanner.h"

namespace plait {

class ComponentFields;

class PreTokenizer {
 public:
  struct Word {
    std::string_view text;  // not empty
    bool at_start = false;  // whether it begins where the whole text does
  };
  // Where words lie; kept between texts. One per thread.
  struct Workspace {
    std::vector<Word> words, cut;
    std::deque<std::string> changed;  // texts that are not parts of the given one
    size_t num_changed = 0;
  };

  // Every text is one word.
  PreTokenizer() = default;
  // InvalidArgument with the place in `file` for what is not supported.
  static absl::StatusOr<PreTokenizer> FromJson(const std::string& file, JsonValue pre_tokenizer);

  // Cuts `text` (valid UTF-8, not empty) into workspace.words, which lie in it or in the workspace.
  void Cut(std::string_view text, bool at_start, Workspace& workspace) const;

  bool is_identity() const { return steps_.empty(); }
  // Whether the words' bytes are still to become the characters of byte_level.h.
  bool gives_bytes() const { return gives_bytes_; }
  // Whether a text that does not begin with a space may get one.
  bool prepends_space() const;
  // Whether a space goes before the first of several words: which ones begin where the text does is
  // not known once a normalizer has changed it.
  bool needs_unchanged_text() const;
  // Whether the words together are the text, but for such a space and the space's symbol.
  bool keeps_text() const;

 private:
  enum class Kind { kMetaspace, kPrefixSpace, kSplitAtString, kSplitAtWords, kSplitAtNumbers };
  enum class Prepend { kAlways, kFirst, kNever };
  // What becomes of a match: a word of its own, nothing, part of a neighbour, or one word with the
  // matches beside it.
  enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Step {
    Kind kind = Kind::kMetaspace;
    std::string symbol;  // kMetaspace: for the space; kSplitAtString: what is looked for
    Prepend prepend = Prepend::kNever;
    bool split = true;  // kMetaspace: into words
    WordPattern pattern = WordPattern::kGpt2;
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;  // what lies between matches is the match
  };
  // A match, or what lies between two.
  struct Stretch {
    size_t begin = 0, end = 0;
    bool is_match = false;
  };

  absl::Status AddSteps(const std::string& file, const std::string& place, JsonValue pre_tokenizer);
  static absl::StatusOr<Step> MetaspaceStep(ComponentFields& fields);
  static absl::StatusOr<Step> SplitStep(ComponentFields& fields);
  static void ApplyMetaspace(const Step& step, const Word& word, Workspace& workspace);
  static std::vector<Stretch> FindStretches(const Step& step, std::string_view text);
  static void Split(const Step& step, const Word& word, std::vector<Word>* cut);

  std::vector<Step> steps_;
  bool gives_bytes_ = false;
};

}  // namespace plait
