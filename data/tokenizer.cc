#include "data/tokenizer.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/durable_file.h"
#include "base/status_macros.h"
#include "data/document_tokens.h"
#include "data/json_tokenizer.h"
#include "data/sentencepiece_scan.h"
#include "data/sentencepiece_tokenizer.h"
#include "data/utf8.h"

namespace plait {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// A .model begins with a field's tag, never with a brace.
bool IsJson(std::string_view bytes) {
  const size_t first = bytes.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && bytes[first] == '{';
}

}  // namespace

Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::map<std::string, std::string>> ReadTokenizerFiles(const std::string& folder,
                                                                      const std::string& name) {
  const auto path = [&folder](const std::string& file) {
    return (std::filesystem::path(folder) / file).string();
  };
  std::map<std::string, std::string> files;
  PLAIT_ASSIGN_OR_RETURN(files[name], ReadWholeFile(path(name), kMaxTokenizerBytes));
  if (!IsJson(files[name])) return files;
  absl::StatusOr<std::string> config =
      ReadWholeFile(path(kTokenizerConfigName), kMaxTokenizerBytes);
  if (config.ok()) {
    files[kTokenizerConfigName] = *std::move(config);
  } else if (!absl::IsNotFound(config.status())) {
    return config.status();
  }
  return files;
}

absl::StatusOr<Tokenizer> Tokenizer::Load(const std::string& path) {
  const std::filesystem::path parts(path);
  PLAIT_ASSIGN_OR_RETURN(auto files, ReadTokenizerFiles(parts.parent_path(), parts.filename()));
  return FromBytes(std::move(files[parts.filename()]), path, files[kTokenizerConfigName]);
}

absl::StatusOr<Tokenizer> Tokenizer::FromFiles(const std::map<std::string, std::string>& files,
                                               const std::string& folder,
                                               const std::string& digest) {
  auto chosen = files.end();
  for (const char* name : {kJsonTokenizerName, kSentencePieceName}) {
    const auto file = files.find(name);
    if (file == files.end()) continue;
    const bool is_asked = DigestOf(file->second.data(), file->second.size()) == digest;
    if (is_asked || chosen == files.end()) chosen = file;
    if (is_asked) break;
  }
  if (chosen == files.end()) {
    return absl::NotFoundError(absl::StrCat(folder, ": has no tokenizer: neither ",
                                            kJsonTokenizerName, " nor ", kSentencePieceName));
  }
  const auto config = files.find(kTokenizerConfigName);
  return FromBytes(chosen->second, absl::StrCat(folder, "/", chosen->first),
                   config == files.end() ? "" : config->second);
}

absl::StatusOr<Tokenizer> Tokenizer::FromBytes(std::string bytes, const std::string& name,
                                               std::string config) {
  Tokenizer tokenizer;
  if (IsJson(bytes)) {
    PLAIT_ASSIGN_OR_RETURN(JsonTokenizer json, JsonTokenizer::FromBytes(bytes, name));
    PLAIT_ASSIGN_OR_RETURN(
        const DocumentTokens tokens,
        FindDocumentTokens(json, config,
                           (std::filesystem::path(name).parent_path() / kTokenizerConfigName)));
    tokenizer.bos_id_ = tokens.bos;
    tokenizer.bos_begins_prompts_ = tokens.bos_begins_prompts;
    tokenizer.eos_id_ = tokens.eos;
    tokenizer.pad_id_ = tokens.pad;
    tokenizer.unk_id_ = tokens.unk;
    tokenizer.id_bytes_.reserve(static_cast<size_t>(json.vocabulary_size()));
    for (int32_t id = 0; id < json.vocabulary_size(); ++id)
      tokenizer.id_bytes_.push_back(json.BytesOf(id));
    tokenizer.has_dummy_prefix_ = json.prepends_space();
    tokenizer.strips_first_space_ = json.strips_first_space();
    tokenizer.is_lossless_ = json.is_lossless();
    tokenizer.json_ = std::make_unique<JsonTokenizer>(std::move(json));
    tokenizer.config_ = std::move(config);
  } else {
    PLAIT_ASSIGN_OR_RETURN(SentencePieceTokenizer model,
                           SentencePieceTokenizer::FromBytes(bytes, name));
    tokenizer.bos_id_ = model.bos_id();
    tokenizer.eos_id_ = model.eos_id();
    tokenizer.pad_id_ = model.pad_id();
    tokenizer.unk_id_ = model.unk_id();
    tokenizer.id_bytes_ = model.id_bytes();
    tokenizer.has_dummy_prefix_ = model.has_dummy_prefix();
    tokenizer.strips_first_space_ = model.has_dummy_prefix();
    tokenizer.is_lossless_ = model.is_lossless();
    tokenizer.sentencepiece_ = std::make_unique<SentencePieceTokenizer>(std::move(model));
  }
  tokenizer.name_ = name;
  tokenizer.digest_ = DigestOf(bytes.data(), bytes.size());
  tokenizer.model_bytes_ = std::move(bytes);
  return tokenizer;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       WordCache* cache) const {
  std::vector<int32_t> ids;
  PLAIT_RETURN_IF_ERROR(json_ ? json_->Encode(text, SpecialNames::kText, cache, &ids)
                              : sentencepiece_->Encode(text, cache, &ids));
  return ids;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodePrompt(std::string_view text) const {
  std::vector<int32_t> ids;
  if (json_ && json_->post_processor().has_template()) {
    ids = json_->post_processor().before();
  } else if (bos_id_ >= 0 && bos_begins_prompts_) {
    ids.push_back(bos_id_);
  }
  PLAIT_RETURN_IF_ERROR(json_ ? json_->Encode(text, SpecialNames::kTokens, nullptr, &ids)
                              : sentencepiece_->Encode(text, nullptr, &ids));
  return ids;
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids) const {
  std::string text;
  std::vector<int32_t> ordinary;  // of a tokenizer.json: those that are not special
  for (int32_t id : ids) {
    if (id < 0 || id >= vocabulary_size()) {
      return absl::OutOfRangeError(
          absl::StrCat(name_, ": id ", id, " is outside the vocabulary of ", vocabulary_size()));
    }
    if (!json_) {
      text += BytesOf(id);
    } else if (!json_->IsSpecial(id)) {
      ordinary.push_back(id);
    }
  }
  if (json_) return json_->Decode(ordinary, /*skip_special=*/false);
  if (strips_first_space_ && !text.empty() && text.front() == ' ') text.erase(0, 1);
  return text;
}

absl::Status Tokenizer::CheckDocumentTokens() const {
  if (bos_id_ >= 0 && eos_id_ >= 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      name_, ": does not say which token ", bos_id_ < 0 ? "begins" : "ends", " a document; put a ",
      kTokenizerConfigName, " with ", bos_id_ < 0 ? "bos_token" : "eos_token", " beside it"));
}

std::vector<int32_t> Tokenizer::ByteLengths() const {
  std::vector<int32_t> lengths;
  lengths.reserve(id_bytes_.size());
  for (const std::string& bytes : id_bytes_) lengths.push_back(static_cast<int32_t>(bytes.size()));
  return lengths;
}

int64_t Tokenizer::PrefixBytes(std::string_view text) const {
  if (text.empty()) return 0;
  return (json_ ? json_->PrependsSpaceTo(text) : has_dummy_prefix_) ? 1 : 0;
}

absl::StatusOr<std::string> TokenStreamDecoder::Add(int32_t id) {
  if (id < 0 || id >= tokenizer_.vocabulary_size()) {
    return absl::OutOfRangeError(
        absl::StrCat("id ", id, " is outside the vocabulary of ", tokenizer_.vocabulary_size()));
  }
  std::string_view bytes = tokenizer_.BytesOf(id);
  if (at_start_ && !bytes.empty()) {
    at_start_ = false;
    if (tokenizer_.strips_first_space() && bytes.front() == ' ') bytes.remove_prefix(1);
  }
  held_ += bytes;
  return TakeWholeCharacters();
}

std::string TokenStreamDecoder::TakeWholeCharacters() {
  std::string text;
  std::string_view rest = held_;
  while (!rest.empty()) {
    int length = 0;
    const Utf8Prefix prefix = ClassifyUtf8Prefix(rest, &length);
    if (prefix == Utf8Prefix::kIncomplete) break;
    text += prefix == Utf8Prefix::kComplete ? rest.substr(0, static_cast<size_t>(length))
                                            : kReplacement;
    rest.remove_prefix(static_cast<size_t>(length));
  }
  held_ = std::string(rest);
  return text;
}

std::string TokenStreamDecoder::Finish() {
  if (held_.empty()) return "";
  held_.clear();
  return std::string(kReplacement);
}

}  // namespace plait
