// `decoder` of a tokenizer.json: from pieces back to text. Sequence, Replace (of a string),
// ByteFallback, Fuse, Strip, ByteLevel and Metaspace; others are refused. Without a decoder the
// pieces are joined by spaces.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "data/json_value.h"

namespace plait {

// Strings, one after the other in one buffer.
class StringList {
 public:
  void Add(std::string_view text) {
    bytes_ += text;
    ends_.push_back(bytes_.size());
  }
  size_t size() const { return ends_.size(); }
  std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(bytes_).substr(begin, ends_[i] - begin);
  }
  const std::string& Joined() const { return bytes_; }

 private:
  std::string bytes_;
  std::vector<size_t> ends_;
};

class TokenDecoder {
 public:
  TokenDecoder() = default;
  // InvalidArgument with the place in `file` for what is not supported.
  static absl::StatusOr<TokenDecoder> FromJson(const std::string& file, JsonValue decoder);

  // The text of the pieces. Bytes that are not valid UTF-8 become U+FFFD, as the package does.
  std::string Decode(StringList pieces) const;
  // What one piece adds to a text in the middle of which it stands, in bytes, valid or not.
  std::string BytesOf(std::string_view piece) const;
  // Whether a space at the beginning of all is taken away.
  bool strips_first_space() const;

 private:
  enum class Kind { kReplace, kByteFallback, kFuse, kStrip, kByteLevel, kMetaspace };
  struct Step {
    Kind kind = Kind::kFuse;
    std::string pattern, content;  // kReplace; kStrip and kMetaspace have a character in pattern
    int64_t start = 0, stop = 0;   // kStrip: most characters taken away
    bool drops_first = false;      // kMetaspace: the first piece's symbols
  };

  absl::Status AddSteps(const std::string& file, const std::string& place, JsonValue decoder);
  static StringList Apply(const Step& step, const StringList& pieces);

  std::vector<Step> steps_;
  double growth_ = 1;  // of a text, at most, by all replacements
  bool joins_with_spaces_ = true;
};

}  // namespace plait
