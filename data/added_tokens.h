// `added_tokens` of a tokenizer.json: pieces that are found in a text before it is cut into words.
// Those that are not `normalized` are looked for in the text as it is, the others in what the
// normalizer makes of the rest. Of several, the one that begins first is taken, and of those the
// longest.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "data/json_value.h"
#include "data/text_normalizer.h"

namespace plait {

class BytePairEncoding;

// What the name of a special token in a text becomes.
enum class SpecialNames {
  kTokens,  // the token, as in a prompt written by hand
  kText     // its characters: a text is only a text
};

struct AddedToken {
  int32_t id = 0;
  std::string content;
  // What is looked for, and what decoding begins with: the content, normalized where `normalized`.
  std::string piece;
  bool special = false;
  bool single_word = false;                      // only where no word character touches it
  bool left_strip = false, right_strip = false;  // takes the spaces beside it
  bool normalized = false;
};

// Part of a text: an added token, or text between.
struct TextPart {
  int32_t id = -1;  // -1: text
  std::string_view text;
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // tokens: null or an array. InvalidArgument with the place in `file`: an id that is not the
  // piece's in `model`, nor for a new piece the next after all others; a content twice or empty.
  static absl::StatusOr<AddedTokens> FromJson(const std::string& file, JsonValue tokens,
                                              const BytePairEncoding& model,
                                              const TextNormalizer& normalizer);

  // Cuts `text` at the tokens that are not normalized, or at those that are. Parts are never empty.
  void Split(std::string_view text, bool normalized, SpecialNames names,
             std::vector<TextPart>* parts) const;

  // nullptr where `id` is no added token.
  const AddedToken* Find(int32_t id) const;
  // -1 where there is none.
  int32_t IdOf(std::string_view content) const;
  // Whether `piece` is the content of a special token.
  bool IsSpecialContent(std::string_view piece) const;
  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  // All contents of one kind, byte after byte.
  struct Trie {
    struct Node {
      int32_t token = -1;  // index in tokens_ of the content that ends here
    };
    std::vector<Node> nodes = {{}};
    absl::flat_hash_map<uint64_t, int32_t> children;  // by node << 8 | byte
    std::array<bool, 256> begins = {};                // whether a content begins with the byte

    void Add(std::string_view content, int32_t token);
    // The token whose content is the longest beginning of `text`, or -1.
    int32_t Match(std::string_view text, size_t* length) const;
  };

  std::vector<AddedToken> tokens_;
  absl::flat_hash_map<int32_t, int32_t> index_of_id_;
  Trie raw_, normalized_;
};

}  // namespace plait
