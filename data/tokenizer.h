// Tokenizer: a SentencePiece model with byte pieces. Text is valid UTF-8; ids are below
// vocabulary_size(). For tokenizers that plait trains, decoding gives back every text byte for
// byte, and the byte lengths of a text's ids add up to its bytes. U+2581, which SentencePiece uses
// inside for the space, is encoded as its three byte pieces, so it survives too. Other models do as
// they were trained: a model with a dummy prefix (Llama's) puts one space before the text, which
// Decode takes away again. User text never gives a control token: "<s>" in a text is encoded as its
// characters.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"

namespace plait {

class SentencePieceModel;

// Ids of words seen before, for encoding much text: natural text repeats most of its words. One per
// thread.
struct WordCache {
  std::unordered_map<std::string, std::vector<int32_t>> ids;
};

class Tokenizer {
 public:
  // NotFound, or InvalidArgument naming the file: not a model, a piece too long, too many pieces,
  // no byte pieces, no BOS or no EOS.
  static absl::StatusOr<Tokenizer> Load(const std::string& path);
  // `name` stands for the file in errors.
  static absl::StatusOr<Tokenizer> FromBytes(std::string model_bytes, const std::string& name);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Ids of the text alone, without BOS and EOS. The same with a cache and without. InvalidArgument,
  // with the byte offset, for invalid UTF-8. Thread-safe, with a cache for each thread.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              WordCache* cache = nullptr) const;
  // The ids' bytes one after the other; control tokens give none. Ids not made by Encode may give
  // invalid UTF-8. OutOfRange for an id outside the vocabulary.
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids) const;

  int32_t vocabulary_size() const { return static_cast<int32_t>(id_bytes_.size()); }
  int32_t bos_id() const { return bos_id_; }
  int32_t eos_id() const { return eos_id_; }
  int32_t pad_id() const { return pad_id_; }  // -1 where there is none
  int32_t unk_id() const { return unk_id_; }
  // Bytes that each id adds to the decoded text; 0 for control tokens.
  std::vector<int32_t> ByteLengths() const;
  // The bytes themselves. id < vocabulary_size().
  const std::string& BytesOf(int32_t id) const { return id_bytes_[static_cast<size_t>(id)]; }
  // Whether every text begins with a space that it does not have.
  bool has_dummy_prefix() const { return has_dummy_prefix_; }
  // Whether the byte lengths of Encode(text) add up to the text's bytes, for every text.
  bool is_lossless() const { return is_lossless_; }
  // XXH3-128 of the model file.
  const std::string& digest() const { return digest_; }
  const std::string& model_bytes() const { return model_bytes_; }

 private:
  Tokenizer() = default;
  absl::Status EncodeSegment(std::string_view text, std::vector<int32_t>* ids) const;
  absl::Status EncodeWords(std::string_view text, WordCache& cache,
                           std::vector<int32_t>* ids) const;

  std::unique_ptr<SentencePieceModel> model_;
  std::string model_bytes_;
  std::string name_;
  std::string digest_;
  std::vector<std::string> id_bytes_;
  std::vector<int32_t> id_of_byte_;  // [256]
  int32_t bos_id_ = -1, eos_id_ = -1, pad_id_ = -1, unk_id_ = -1;
  bool has_dummy_prefix_ = false;
  bool is_lossless_ = false;
  // No piece has a newline before its last character, so that a text may be encoded line by line.
  bool newline_ends_pieces_ = false;
  // No piece has a space after another character, so that a text may be encoded word by word.
  bool space_begins_pieces_ = false;
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
