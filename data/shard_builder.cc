#include "data/shard_builder.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace plait {

ShardBuilder::ShardBuilder(std::string folder, std::string prefix, std::string tokenizer_digest,
                           int64_t vocabulary_size, int64_t shard_tokens)
    : folder_(std::move(folder)), prefix_(std::move(prefix)), shard_tokens_(shard_tokens) {
  content_.tokenizer_digest = std::move(tokenizer_digest);
  content_.vocabulary_size = vocabulary_size;
}

absl::Status ShardBuilder::Add(int32_t bos, std::span<const int32_t> text_tokens, int32_t eos,
                               int64_t text_bytes) {
  content_.tokens.push_back(static_cast<uint32_t>(bos));
  content_.tokens.insert(content_.tokens.end(), text_tokens.begin(), text_tokens.end());
  content_.tokens.push_back(static_cast<uint32_t>(eos));
  content_.document_offsets.push_back(static_cast<int64_t>(content_.tokens.size()));
  content_.text_bytes += text_bytes;
  return static_cast<int64_t>(content_.tokens.size()) >= shard_tokens_ ? Finish()
                                                                       : absl::OkStatus();
}

absl::Status ShardBuilder::Finish() {
  if (content_.num_documents() == 0) return absl::OkStatus();
  const std::string name = absl::StrFormat("%s-%05d.h5", prefix_, shards_.size());
  PLAIT_RETURN_IF_ERROR(WriteTokenShard(folder_ + "/" + name, content_));
  ManifestShard shard;
  PLAIT_ASSIGN_OR_RETURN(shard.file, DescribeFile(folder_, name));
  shard.documents = content_.num_documents();
  shard.tokens = static_cast<int64_t>(content_.tokens.size());
  shard.text_bytes = content_.text_bytes;
  shards_.push_back(std::move(shard));
  content_.tokens.clear();
  content_.document_offsets = {0};
  content_.text_bytes = 0;
  return absl::OkStatus();
}

}  // namespace plait
