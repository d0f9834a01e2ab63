#include "data/json_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "data/byte_level.h"
#include "data/component_fields.h"
#include "data/json_value.h"
#include "data/one_line.h"
#include "data/utf8.h"

namespace plait {
namespace {

constexpr int kMaxDepth = 32;
constexpr std::string_view kSpaceSymbol = "\xe2\x96\x81";  // U+2581

// Truncation would lose text. Padding matters here only where it lengthens a text by itself.
void CheckTruncationAndPadding(ComponentFields& root) {
  if (root.Value("truncation").has_value())
    root.Fail("truncation", "not supported; set it to null");
  const std::optional<JsonValue> padding = root.Value("padding");
  if (!padding.has_value()) return;
  ComponentFields fields(root.file(), "padding", *padding);
  const std::optional<JsonValue> strategy = fields.Value("strategy");
  const bool to_longest = strategy.has_value() && strategy->string() == "BatchLongest";
  if (!to_longest || fields.Value("pad_to_multiple_of").has_value())
    fields.Fail("", "only strategy BatchLongest is supported; set it to null");
  root.Fail(fields.status());
}

}  // namespace

struct JsonTokenizer::Workspace {
  std::vector<TextPart> parts, normalized_parts;
  std::string normalized;
  std::string characters;  // of a word's bytes
  PreTokenizer::Workspace words;
  BytePairEncoding::Workspace merging;
};

absl::StatusOr<JsonTokenizer> JsonTokenizer::FromBytes(const std::string& content,
                                                       const std::string& name) {
  absl::StatusOr<JsonTokenizer> tokenizer = Read(content, name);
  if (!tokenizer.ok()) return OneLine(tokenizer.status());
  return tokenizer;
}

absl::StatusOr<JsonTokenizer> JsonTokenizer::Read(const std::string& content,
                                                  const std::string& name) {
  PLAIT_ASSIGN_OR_RETURN(const JsonDocument document,
                         JsonDocument::Parse(content, name, kMaxDepth));
  ComponentFields root(name, "", document.root());
  root.Ignore("version");
  CheckTruncationAndPadding(root);
  const auto value = [&root](const char* field) { return root.Value(field).value_or(JsonValue()); };
  const std::optional<JsonValue> model = root.Value("model");
  if (!model.has_value()) root.Fail("model", "is missing");
  const JsonValue added = value("added_tokens"), normalizer = value("normalizer"),
                  pre_tokenizer = value("pre_tokenizer"), decoder = value("decoder"),
                  post_processor = value("post_processor");
  PLAIT_RETURN_IF_ERROR(root.Finish());

  PLAIT_ASSIGN_OR_RETURN(BytePairEncoding encoding, BytePairEncoding::FromJson(name, *model));
  JsonTokenizer tokenizer(std::move(encoding));
  PLAIT_ASSIGN_OR_RETURN(tokenizer.normalizer_, TextNormalizer::FromJson(name, normalizer));
  PLAIT_ASSIGN_OR_RETURN(tokenizer.added_, AddedTokens::FromJson(name, added, tokenizer.model_,
                                                                 tokenizer.normalizer_));
  PLAIT_ASSIGN_OR_RETURN(tokenizer.pre_tokenizer_, PreTokenizer::FromJson(name, pre_tokenizer));
  if (tokenizer.pre_tokenizer_.needs_unchanged_text() && !tokenizer.normalizer_.is_identity()) {
    return root.Refusal(
        "pre_tokenizer",
        "prepend_scheme first after other steps is not supported with a normalizer");
  }
  tokenizer.vocabulary_size_ = tokenizer.model_.num_pieces();
  for (const AddedToken& token : tokenizer.added_.tokens())
    tokenizer.vocabulary_size_ = std::max(tokenizer.vocabulary_size_, token.id + 1);
  PLAIT_ASSIGN_OR_RETURN(tokenizer.post_processor_,
                         PostProcessor::FromJson(name, post_processor, tokenizer.vocabulary_size_));
  PLAIT_ASSIGN_OR_RETURN(tokenizer.decoder_, TokenDecoder::FromJson(name, decoder));
  tokenizer.cuts_at_space_symbol_ =
      tokenizer.pre_tokenizer_.is_identity() && tokenizer.model_.MayCutBefore(kSpaceSymbol);
  return tokenizer;
}

absl::Status JsonTokenizer::Encode(std::string_view text, SpecialNames names, WordCache* cache,
                                   std::vector<int32_t>* ids) const {
  if (const int64_t offset = FirstInvalidUtf8(text); offset >= 0) {
    return absl::InvalidArgumentError(absl::StrCat("invalid UTF-8 at byte ", offset));
  }
  WordCache own_cache;
  Workspace workspace;
  added_.Split(text, /*normalized=*/false, names, &workspace.parts);
  for (const TextPart& part : workspace.parts) {
    if (part.id >= 0) {
      ids->push_back(part.id);
    } else {
      PLAIT_RETURN_IF_ERROR(EncodePart(part.text, part.text.data() == text.data(), names,
                                       cache != nullptr ? *cache : own_cache, workspace, ids));
    }
  }
  return absl::OkStatus();
}

absl::Status JsonTokenizer::EncodePart(std::string_view text, bool at_start, SpecialNames names,
                                       WordCache& cache, Workspace& workspace,
                                       std::vector<int32_t>* ids) const {
  if (!normalizer_.is_identity()) {
    workspace.normalized = text;
    PLAIT_RETURN_IF_ERROR(normalizer_.Apply(&workspace.normalized, &at_start));
    text = workspace.normalized;
  }
  workspace.normalized_parts.clear();
  added_.Split(text, /*normalized=*/true, names, &workspace.normalized_parts);
  for (const TextPart& part : workspace.normalized_parts) {
    if (part.id >= 0) {
      ids->push_back(part.id);
    } else {
      EncodeWords(part.text, at_start && part.text.data() == text.data(), cache, workspace, ids);
    }
  }
  return absl::OkStatus();
}

void JsonTokenizer::EncodeWords(std::string_view text, bool at_start, WordCache& cache,
                                Workspace& workspace, std::vector<int32_t>* ids) const {
  if (cuts_at_space_symbol_) {
    while (!text.empty()) {
      size_t letters = 0;
      while (text.substr(letters, kSpaceSymbol.size()) == kSpaceSymbol)
        letters += kSpaceSymbol.size();
      const std::string_view word = text.substr(0, text.find(kSpaceSymbol, letters));
      EncodeWord(word, cache, workspace, ids);
      text.remove_prefix(word.size());
    }
    return;
  }
  if (pre_tokenizer_.is_identity()) return EncodeWord(text, cache, workspace, ids);
  pre_tokenizer_.Cut(text, at_start, workspace.words);
  for (const PreTokenizer::Word& word : workspace.words.words)
    EncodeWord(word.text, cache, workspace, ids);
}

void JsonTokenizer::EncodeWord(std::string_view word, WordCache& cache, Workspace& workspace,
                               std::vector<int32_t>* ids) const {
  if (const std::span<const int32_t> known = cache.Find(word); known.data() != nullptr) {
    ids->insert(ids->end(), known.begin(), known.end());
    return;
  }
  const size_t begin = ids->size();
  std::string_view characters = word;
  if (pre_tokenizer_.gives_bytes()) {
    workspace.characters.clear();
    AppendByteLevel(word, &workspace.characters);
    characters = workspace.characters;
  }
  model_.Encode(characters, workspace.merging, ids);
  cache.Add(word, std::span<const int32_t>(*ids).subspan(begin));
}

std::string_view JsonTokenizer::PieceOf(int32_t id) const {
  if (const AddedToken* added = added_.Find(id)) return added->piece;
  if (id < 0 || id >= model_.num_pieces()) return "";
  return model_.PieceOf(id);
}

int32_t JsonTokenizer::IdOf(std::string_view piece) const {
  const int32_t id = added_.IdOf(piece);
  return id >= 0 ? id : model_.IdOf(piece);
}

bool JsonTokenizer::IsSpecial(int32_t id) const {
  const AddedToken* added = added_.Find(id);
  return added != nullptr && added->special;
}

std::string JsonTokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  StringList pieces;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocabulary_size_) continue;
    const std::string_view piece = PieceOf(id);
    // By name, as the package does: a special token that is normalized may not be known again.
    if (skip_special && added_.Find(id) != nullptr && added_.IsSpecialContent(piece)) continue;
    pieces.Add(piece);
  }
  return decoder_.Decode(std::move(pieces));
}

std::string JsonTokenizer::BytesOf(int32_t id) const {
  return IsSpecial(id) ? "" : decoder_.BytesOf(PieceOf(id));
}

bool JsonTokenizer::prepends_space() const {
  return normalizer_.prepends_space() || pre_tokenizer_.prepends_space();
}

bool JsonTokenizer::PrependsSpaceTo(std::string_view text) const {
  if (normalizer_.prepends_space()) return true;
  return pre_tokenizer_.prepends_space() && text.front() != ' ' &&
         text.substr(0, kSpaceSymbol.size()) != kSpaceSymbol;
}

bool JsonTokenizer::is_lossless() const {
  if (!normalizer_.is_identity() || !pre_tokenizer_.gives_bytes() ||
      pre_tokenizer_.prepends_space() || !pre_tokenizer_.keeps_text()) {
    return false;
  }
  // Every byte has a piece, which decodes to it.
  for (int byte = 0; byte < 256; ++byte) {
    const std::string_view one(reinterpret_cast<const char*>(&byte), 1);
    std::string character;
    AppendByteLevel(one, &character);
    const int32_t id = model_.IdOf(character);
    if (id < 0 || BytesOf(id) != one) return false;
  }
  // Added tokens stand for their own bytes and take no spaces.
  return std::all_of(added_.tokens().begin(), added_.tokens().end(), [this](const AddedToken& t) {
    return t.special || (!t.left_strip && !t.right_strip && BytesOf(t.id) == t.content);
  });
}

}  // namespace plait
