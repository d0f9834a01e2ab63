// PreparedTokens: one split of a folder written by `plait prepare`, all its shards mapped and
// numbered as one: documents and tokens in the order of the shards. Reading is thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "data/prepared_manifest.h"
#include "data/token_shard.h"

namespace plait {

enum class DataSplit { kTrain, kHeldout };

class PreparedTokens {
 public:
  // Errors of ReadManifest and TokenShard::Open; NotFound where the split has no shards; DataLoss
  // where a shard was made with another tokenizer than the manifest's. Lengths are checked here,
  // digests by VerifyPrepared.
  static absl::StatusOr<PreparedTokens> Open(const std::string& folder, DataSplit split);

  int64_t num_documents() const { return first_document_.back(); }
  int64_t num_tokens() const { return first_token_.back(); }
  // Token at which the document begins; document == num_documents() gives num_tokens(). O(log
  // shards).
  int64_t DocumentOffset(int64_t document) const;
  // Tokens [begin, begin + count), which must lie inside the split. DataLoss, naming the shard, for
  // an id outside the vocabulary.
  absl::Status Copy(int64_t begin, int64_t count, int32_t* out) const;

  // Bytes that each id adds to the decoded text, [vocabulary].
  const std::vector<int32_t>& byte_lengths() const { return byte_lengths_; }
  const PreparedManifest& manifest() const { return manifest_; }

 private:
  PreparedManifest manifest_;
  std::vector<std::string> paths_;
  std::vector<TokenShard> shards_;
  std::vector<int64_t> first_document_ = {0};  // [shards + 1]
  std::vector<int64_t> first_token_ = {0};     // [shards + 1]
  std::vector<int32_t> byte_lengths_;
};

}  // namespace plait
