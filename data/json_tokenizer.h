// A Hugging Face tokenizer.json, run natively: ids and texts as the `tokenizers` package gives
// them. Byte-pair encoding with the parts that Llama- and Jamba-like models use; see the headers of
// the parts. What is not supported is refused by its name and place in the file.
//   encode: added tokens are found -> normalizer -> pre-tokenizer -> byte-pair encoding -> post-
//           processor puts special tokens around
//   decode: pieces of the ids -> decoder
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "data/added_tokens.h"
#include "data/byte_pair_encoding.h"
#include "data/post_processor.h"
#include "data/pre_tokenizer.h"
#include "data/text_normalizer.h"
#include "data/token_decoder.h"
#include "data/word_cache.h"

namespace plait {

class JsonTokenizer {
 public:
  // content: of the file, whose name errors begin with. InvalidArgument for what is not such a
  // file, or not supported.
  static absl::StatusOr<JsonTokenizer> FromBytes(const std::string& content,
                                                 const std::string& name);

  // Appends the ids of a text of valid UTF-8, without those of the post-processor. The same with a
  // cache and without. Thread-safe, with a cache for each thread.
  absl::Status Encode(std::string_view text, SpecialNames names, WordCache* cache,
                      std::vector<int32_t>* ids) const;
  // Ids that are no token's are left out. skip_special: also those whose piece is the content of a
  // special token.
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const;

  int32_t vocabulary_size() const { return vocabulary_size_; }
  // "" for an id without a token.
  std::string_view PieceOf(int32_t id) const;
  // -1 where there is no such token.
  int32_t IdOf(std::string_view piece) const;
  bool IsSpecial(int32_t id) const;
  // What an id adds to a text in the middle of which it stands; "" for special tokens.
  std::string BytesOf(int32_t id) const;
  // Whether encoding puts a space before some texts; before this one, which is not empty.
  bool prepends_space() const;
  bool PrependsSpaceTo(std::string_view text) const;
  // Whether decoding takes a space at the beginning away.
  bool strips_first_space() const { return decoder_.strips_first_space(); }
  // Whether the bytes of a text's ids are those of the text, for every text (SpecialNames::kText).
  bool is_lossless() const;
  const PostProcessor& post_processor() const { return post_processor_; }
  const AddedTokens& added_tokens() const { return added_; }

 private:
  struct Workspace;

  static absl::StatusOr<JsonTokenizer> Read(const std::string& content, const std::string& name);
  explicit JsonTokenizer(BytePairEncoding model) : model_(std::move(model)) {}
  absl::Status EncodePart(std::string_view text, bool at_start, SpecialNames names,
                          WordCache& cache, Workspace& workspace, std::vector<int32_t>* ids) const;
  void EncodeWords(std::string_view text, bool at_start, WordCache& cache, Workspace& workspace,
                   std::vector<int32_t>* ids) const;
  void EncodeWord(std::string_view word, WordCache& cache, Workspace& workspace,
                  std::vector<int32_t>* ids) const;

  BytePairEncoding model_;
  AddedTokens added_;
  TextNormalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  PostProcessor post_processor_;
  TokenDecoder decoder_;
  int32_t vocabulary_size_ = 0;
  // A text that is one word for the pre-tokenizer may be encoded word by word.
  bool cuts_at_space_symbol_ = false;
};

}  // namespace plait
