#include "data/added_tokens.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "data/byte_pair_encoding.h"
#include "data/component_fields.h"
#include "data/unicode_classes.h"
#include "data/utf8.h"

namespace plait {
namespace {

// Of the character that begins at the front of `text`, or that ends at its back; 0 without one.
uint8_t FirstClasses(std::string_view text, size_t* length) {
  if (text.empty()) return 0;
  int bytes = 0;
  const char32_t character = DecodeUtf8(text, &bytes);
  *length = static_cast<size_t>(bytes);
  return UnicodeClasses::Get().Of(character);
}

uint8_t LastClasses(std::string_view text, size_t* length) {
  if (text.empty()) return 0;
  const size_t last =
      static_cast<size_t>(Utf8CutBefore(text, static_cast<int64_t>(text.size()) - 1));
  return FirstClasses(text.substr(last), length);
}

bool TouchesWord(std::string_view text, size_t begin, size_t end) {
  size_t length = 0;
  return ((LastClasses(text.substr(0, begin), &length) | FirstClasses(text.substr(end), &length)) &
          UnicodeClasses::kWord) != 0;
}

}  // namespace

void AddedTokens::Trie::Add(std::string_view content, int32_t token) {
  begins[static_cast<uint8_t>(content.front())] = true;
  int32_t node = 0;
  for (const char byte : content) {
    const uint64_t edge = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
    const auto [child, is_new] = children.emplace(edge, static_cast<int32_t>(nodes.size()));
    if (is_new) nodes.emplace_back();
    node = child->second;
  }
  // Two contents may become one when normalized: the first counts.
  if (nodes[static_cast<size_t>(node)].token < 0) nodes[static_cast<size_t>(node)].token = token;
}

int32_t AddedTokens::Trie::Match(std::string_view text, size_t* length) const {
  int32_t node = 0, token = -1;
  for (size_t i = 0; i < text.size(); ++i) {
    const uint64_t edge = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(text[i]);
    const auto child = children.find(edge);
    if (child == children.end()) break;
    node = child->second;
    if (nodes[static_cast<size_t>(node)].token < 0) continue;
    token = nodes[static_cast<size_t>(node)].token;
    *length = i + 1;
  }
  return token;
}

absl::StatusOr<AddedTokens> AddedTokens::FromJson(const std::string& file, JsonValue tokens,
                                                  const BytePairEncoding& model,
                                                  const TextNormalizer& normalizer) {
  AddedTokens added;
  if (tokens.is_null()) return added;
  if (tokens.kind() != JsonValue::Kind::kArray) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": added_tokens: expected an array, found ", Describe(tokens.kind())));
  }
  absl::flat_hash_set<std::string> contents;
  int32_t next_id = model.num_pieces();
  const absl::Status status = tokens.ForEachItem([&](JsonValue item) -> absl::Status {
    ComponentFields fields(file, absl::StrCat("added_tokens[", added.tokens_.size(), "]"), item);
    AddedToken token;
    const int64_t id = fields.Integer("id");
    token.content = fields.String("content");
    token.special = fields.Boolean("special");
    token.single_word = fields.Boolean("single_word");
    token.left_strip = fields.Boolean("lstrip");
    token.right_strip = fields.Boolean("rstrip");
    token.normalized = fields.Boolean("normalized");
    PLAIT_RETURN_IF_ERROR(fields.Finish());
    if (token.content.empty()) return fields.Refusal("content", "is empty");
    if (token.content.size() > kMostPieceBytes)
      return fields.Refusal("content", absl::StrCat("longer than ", kMostPieceBytes, " bytes"));
    if (!contents.insert(token.content).second)
      return fields.Refusal("content", absl::StrCat("\"", token.content, "\" is there twice"));
    token.id = model.IdOf(token.content);
    if (token.id < 0) token.id = next_id++;
    if (id != token.id) {
      return fields.Refusal(
          "id", absl::StrCat("\"", token.content, "\" has id ", id, ", expected ", token.id));
    }
    added.tokens_.push_back(std::move(token));
    return absl::OkStatus();
  });
  PLAIT_RETURN_IF_ERROR(status);
  // Special ones first: where two contents become the same, they win.
  for (const bool special : {true, false}) {
    for (size_t i = 0; i < added.tokens_.size(); ++i) {
      AddedToken& token = added.tokens_[i];
      if (token.special != special) continue;
      token.piece = token.content;
      bool keeps_start = true;
      if (token.normalized) PLAIT_RETURN_IF_ERROR(normalizer.Apply(&token.piece, &keeps_start));
      if (token.piece.empty()) {
        return absl::InvalidArgumentError(absl::StrCat(
            file, ": added_tokens[", i, "].content: the normalizer leaves nothing of it"));
      }
      (token.normalized ? added.normalized_ : added.raw_).Add(token.piece, static_cast<int32_t>(i));
      added.index_of_id_[token.id] = static_cast<int32_t>(i);
    }
  }
  return added;
}

const AddedToken* AddedTokens::Find(int32_t id) const {
  const auto index = index_of_id_.find(id);
  return index == index_of_id_.end() ? nullptr : &tokens_[static_cast<size_t>(index->second)];
}

int32_t AddedTokens::IdOf(std::string_view content) const {
  for (const AddedToken& token : tokens_) {
    if (token.content == content) return token.id;
  }
  return -1;
}

bool AddedTokens::IsSpecialContent(std::string_view piece) const {
  return std::any_of(tokens_.begin(), tokens_.end(), [piece](const AddedToken& token) {
    return token.special && token.content == piece;
  });
}

void AddedTokens::Split(std::string_view text, bool normalized, SpecialNames names,
                        std::vector<TextPart>* parts) const {
  const Trie& trie = normalized ? normalized_ : raw_;
  size_t done = 0;  // what lies before has gone into parts
  size_t length = 0;
  for (size_t at = 0; at < text.size();) {
    const int32_t index =
        trie.begins[static_cast<uint8_t>(text[at])] ? trie.Match(text.substr(at), &length) : -1;
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    size_t begin = at, end = at + length;
    at = end;
    if (token.special && names == SpecialNames::kText) continue;
    if (token.single_word && TouchesWord(text, begin, end)) continue;
    while (token.left_strip && begin > done &&
           (LastClasses(text.substr(0, begin), &length) & UnicodeClasses::kSpace)) {
      begin -= length;
    }
    // Spaces that the token before took are gone.
    if (token.left_strip) begin = std::max(begin, done);
    end = std::max(begin, end);
    while (token.right_strip && (FirstClasses(text.substr(end), &length) & UnicodeClasses::kSpace))
      end += length;
    if (done < begin) parts->push_back({-1, text.substr(done, begin - done)});
    parts->push_back({token.id, text.substr(begin, end - begin)});
    done = end;
  }
  if (done < text.size()) parts->push_back({-1, text.substr(done)});
}

}  // namespace plait
