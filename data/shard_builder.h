// ShardBuilder: collects documents and writes a split's shards, "<prefix>-00000.h5" and on, into a
// folder.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "data/prepared_manifest.h"
#include "data/token_shard.h"

namespace plait {

class ShardBuilder {
 public:
  // A shard is closed by the document that reaches shard_tokens.
  ShardBuilder(std::string folder, std::string prefix, std::string tokenizer_digest,
               int64_t vocabulary_size, int64_t shard_tokens);

  // text_tokens without BOS and EOS, which are added.
  absl::Status Add(int32_t bos, std::span<const int32_t> text_tokens, int32_t eos,
                   int64_t text_bytes);
  // Writes what is left.
  absl::Status Finish();

  const std::vector<ManifestShard>& shards() const { return shards_; }

 private:
  std::string folder_;
  std::string prefix_;
  int64_t shard_tokens_;
  TokenShardContent content_;
  std::vector<ManifestShard> shards_;
};

}  // namespace plait
