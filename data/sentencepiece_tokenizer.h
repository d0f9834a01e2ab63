// A SentencePiece .model with byte pieces as a tokenizer. For models that plait trains, the bytes
// of a text's ids are the text. U+2581, which SentencePiece uses inside for the space, is encoded
// as its three byte pieces, so it survives too. Other models do as they were trained: one with a
// dummy prefix (Llama's) puts one space before the text.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "data/word_cache.h"

namespace plait {

class SentencePieceModel;

class SentencePieceTokenizer {
 public:
  // `name` stands for the file in errors. InvalidArgument: not a model, a piece too long, too many
  // pieces, no byte pieces, no BOS or no EOS.
  static absl::StatusOr<SentencePieceTokenizer> FromBytes(const std::string& model_bytes,
                                                          const std::string& name);

  SentencePieceTokenizer(SentencePieceTokenizer&&) noexcept;
  SentencePieceTokenizer& operator=(SentencePieceTokenizer&&) noexcept;
  ~SentencePieceTokenizer();

  // Appends the ids of a text of valid UTF-8.
  absl::Status Encode(std::string_view text, WordCache* cache, std::vector<int32_t>* ids) const;

  // [id] What it adds to a text; nothing for control tokens.
  const std::vector<std::string>& id_bytes() const { return id_bytes_; }
  int32_t bos_id() const { return bos_id_; }
  int32_t eos_id() const { return eos_id_; }
  int32_t pad_id() const { return pad_id_; }  // -1 where there is none
  int32_t unk_id() const { return unk_id_; }
  bool has_dummy_prefix() const { return has_dummy_prefix_; }
  bool is_lossless() const { return is_lossless_; }

 private:
  SentencePieceTokenizer() = default;
  absl::Status EncodeSegment(std::string_view text, std::vector<int32_t>* ids) const;
  absl::Status EncodeWords(std::string_view text, WordCache& cache,
                           std::vector<int32_t>* ids) const;

  std::unique_ptr<SentencePieceModel> model_;
  std::string name_;
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

}  // namespace plait
