// Tokenizer: text to ids and back, by a SentencePiece .model or a Hugging Face tokenizer.json,
// whichever the file is. Text is valid UTF-8; ids are below vocabulary_size().
//   A .model has byte pieces; for those that plait trains, decoding gives back every text byte for
//   byte, and the byte lengths of a text's ids add up to its bytes (sentencepiece_tokenizer.h).
//   A tokenizer.json gives the ids and texts of the `tokenizers` package (json_tokenizer.h).
// In the text of a document the names of special tokens are text: "<s>" is encoded as its
// characters. In a prompt a tokenizer.json takes them for the tokens.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "data/word_cache.h"

namespace plait {

class JsonTokenizer;
class SentencePieceTokenizer;

inline constexpr char kSentencePieceName[] = "tokenizer.model";
inline constexpr char kJsonTokenizerName[] = "tokenizer.json";
// Beside a tokenizer.json, where there is one: says which tokens begin and end a document.
inline constexpr char kTokenizerConfigName[] = "tokenizer_config.json";

// What FromFiles takes: `name` in `folder`, and the tokenizer_config.json beside a tokenizer.json.
absl::StatusOr<std::map<std::string, std::string>> ReadTokenizerFiles(const std::string& folder,
                                                                      const std::string& name);

class Tokenizer {
 public:
  // Reads the tokenizer_config.json beside a tokenizer.json, too. NotFound, or InvalidArgument
  // naming the file and what is wrong or not supported.
  static absl::StatusOr<Tokenizer> Load(const std::string& path);
  // `name` stands for the file in errors. config: content of a tokenizer_config.json, or "".
  static absl::StatusOr<Tokenizer> FromBytes(std::string bytes, const std::string& name,
                                             std::string config = "");

  // Of the tokenizer's files of `folder`, bytes by name. The one with `digest`; where none has,
  // tokenizer.json rather than tokenizer.model. NotFound without either.
  static absl::StatusOr<Tokenizer> FromFiles(const std::map<std::string, std::string>& files,
                                             const std::string& folder, const std::string& digest);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Ids of the text alone, without BOS and EOS. The same with a cache and without. InvalidArgument,
  // with the byte offset, for invalid UTF-8. Thread-safe, with a cache for each thread.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              WordCache* cache = nullptr) const;
  // Ids of a text to be continued: begins with BOS, or with what the template of a tokenizer.json
  // puts before a text.
  absl::StatusOr<std::vector<int32_t>> EncodePrompt(std::string_view text) const;
  // Special tokens give nothing. Ids not made by Encode may give invalid UTF-8 (.model) or U+FFFD
  // (tokenizer.json). OutOfRange for an id outside the vocabulary.
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids) const;

  int32_t vocabulary_size() const { return static_cast<int32_t>(id_bytes_.size()); }
  // -1 where it is not known.
  int32_t bos_id() const { return bos_id_; }
  int32_t eos_id() const { return eos_id_; }
  int32_t pad_id() const { return pad_id_; }
  int32_t unk_id() const { return unk_id_; }
  // FailedPrecondition, saying what to do, where BOS or EOS is not known: a document needs both.
  absl::Status CheckDocumentTokens() const;
  // Bytes that each id adds to the decoded text; 0 for special tokens.
  std::vector<int32_t> ByteLengths() const;
  // The bytes themselves. id < vocabulary_size().
  const std::string& BytesOf(int32_t id) const { return id_bytes_[static_cast<size_t>(id)]; }
  // Whether texts get a space at their beginning that they do not have.
  bool has_dummy_prefix() const { return has_dummy_prefix_; }
  // Whether decoding takes a space at the beginning away.
  bool strips_first_space() const { return strips_first_space_; }
  // Bytes of that space before this text: 0 or 1.
  int64_t PrefixBytes(std::string_view text) const;
  // Whether the byte lengths of Encode(text) add up to the text's bytes, for every text.
  bool is_lossless() const { return is_lossless_; }
  // XXH3-128 of the tokenizer's file.
  const std::string& digest() const { return digest_; }
  const std::string& model_bytes() const { return model_bytes_; }
  // The name that the file has in folders: kSentencePieceName or kJsonTokenizerName.
  const char* file_name() const { return json_ ? kJsonTokenizerName : kSentencePieceName; }
  // Content of the tokenizer_config.json that it was loaded with, or "".
  const std::string& config() const { return config_; }

 private:
  Tokenizer() = default;

  // One of the two.
  std::unique_ptr<SentencePieceTokenizer> sentencepiece_;
  std::unique_ptr<JsonTokenizer> json_;
  std::string model_bytes_;
  std::string config_;
  std::string name_;
  std::string digest_;
  std::vector<std::string> id_bytes_;
  int32_t bos_id_ = -1, eos_id_ = -1, pad_id_ = -1, unk_id_ = -1;
  bool bos_begins_prompts_ = true;
  bool has_dummy_prefix_ = false;
  bool strips_first_space_ = false;
  bool is_lossless_ = false;
};

// Text as it is generated, one id at a time. Never gives half a character: bytes are held back
// until the character is whole, and ill-formed bytes become U+FFFD.
class TokenStreamDecoder {
 public:
  // The tokenizer outlives the decoder.
  explicit TokenStreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // What `id` completes, possibly nothing. OutOfRange for an id outside the vocabulary.
  absl::StatusOr<std::string> Add(int32_t id);
  // What is held back, as U+FFFD.
  std::string Finish();

 private:
  std::string TakeWholeCharacters();

  const Tokenizer& tokenizer_;
  std::string held_;
  bool at_start_ = true;
};

}  // namespace plait
