// Token shards: HDF5 files of documents, each `BOS text EOS`.
//   /tokens            u16 where the vocabulary has at most 65,536 ids, else u32; contiguous, so
//   that reading is a copy out
//                      of mapped memory
//   /documents/offset  i64 [documents + 1]: document d is tokens [offset[d], offset[d + 1])
//   attributes of "/": schema, version, tokenizer_digest, vocabulary_size, tokens, documents,
//   text_bytes
// A shard is complete or not there: it is written under a temporary folder that `plait prepare`
// renames.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace plait {

struct TokenShardContent {
  std::string tokenizer_digest;
  int64_t vocabulary_size = 0;
  int64_t text_bytes = 0;                       // that the tokens stand for
  std::vector<uint32_t> tokens;                 // every id below vocabulary_size
  std::vector<int64_t> document_offsets = {0};  // [documents + 1]

  int64_t num_documents() const { return static_cast<int64_t>(document_offsets.size()) - 1; }
};

// Writes, syncs, and reads back and compares. Errors of Hdf5File; DataLoss where what was read
// differs.
absl::Status WriteTokenShard(const std::string& path, const TokenShardContent& content);

// A shard mapped into memory. Reading is thread-safe.
class TokenShard {
 public:
  // expected_bytes: the file's length by the manifest. Errors name the file: NotFound; DataLoss for
  // another length, for anything that is not a whole shard, and for offsets that do not ascend from
  // 0 to the number of tokens.
  static absl::StatusOr<TokenShard> Open(const std::string& path, int64_t expected_bytes);

  TokenShard(TokenShard&& other) noexcept;
  TokenShard& operator=(TokenShard&& other) noexcept;
  ~TokenShard();

  int64_t num_tokens() const { return num_tokens_; }
  int64_t num_documents() const { return num_documents_; }
  int64_t text_bytes() const { return text_bytes_; }
  int64_t vocabulary_size() const { return vocabulary_size_; }
  const std::string& tokenizer_digest() const { return tokenizer_digest_; }
  // Token index where document d begins; d == num_documents() gives num_tokens().
  int64_t DocumentOffset(int64_t document) const;
  // Tokens [begin, begin + count), which must lie inside.
  void Copy(int64_t begin, int64_t count, int32_t* out) const;

 private:
  TokenShard() = default;

  void* mapping_ = nullptr;
  size_t mapped_bytes_ = 0;
  // Into the mapping; neither is aligned.
  const char* tokens_ = nullptr;
  const char* document_offsets_ = nullptr;
  int token_bytes_ = 2;
  int64_t num_tokens_ = 0;
  int64_t num_documents_ = 0;
  int64_t text_bytes_ = 0;
  int64_t vocabulary_size_ = 0;
  std::string tokenizer_digest_;
};

}  // namespace plait
