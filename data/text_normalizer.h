// `normalizer` of a tokenizer.json: what is done to a text before it is cut into words. Sequence,
// Prepend, Replace (of a string), NFC, NFD, NFKC, NFKD, Lowercase and Strip; others are refused.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "data/json_value.h"

namespace plait {

class TextNormalizer {
 public:
  // Nothing is done to a text.
  TextNormalizer() = default;
  // InvalidArgument with the place in `file` for what is not supported.
  static absl::StatusOr<TextNormalizer> FromJson(const std::string& file, JsonValue normalizer);

  // text: valid UTF-8; in place. `keeps_start` becomes false where the result no longer begins with
  // what stood at the text's beginning.
  absl::Status Apply(std::string* text, bool* keeps_start) const;

  bool is_identity() const { return steps_.empty(); }
  // Whether every text that is not empty begins with a space that it does not have.
  bool prepends_space() const;

 private:
  enum class Kind { kPrepend, kReplace, kCanonical, kLowercase, kStrip };
  struct Step {
    Kind kind;
    std::string pattern, content;                // of kReplace; kPrepend has content
    bool compatible = false, decompose = false;  // of kCanonical
    bool left = false, right = false;            // of kStrip
  };

  absl::Status AddSteps(const std::string& file, const std::string& place, JsonValue normalizer);

  std::vector<Step> steps_;
  double growth_ = 1;  // of a text, at most, by all replacements
};

}  // namespace plait
