// A split's shards, "<prefix>-00000.h5" and on, from the documents that the ranks of `plait
// prepare` tokenised. Each rank writes its documents in order into a part (two temporary files);
// all parts in the order of the ranks are the split. Every rank makes the same plan of shards from
// the lengths of all documents (16 bytes each), and each shard is then built by one rank. How the
// documents were dealt changes no byte.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/part_file.h"
#include "data/prepared_manifest.h"

namespace plait {

// Documents that one rank tokenised: `<parts>/<prefix>-<rank>.tokens` (u32) and `.documents`.
class TokenPartWriter {
 public:
  static absl::StatusOr<TokenPartWriter> Create(const std::string& parts, const std::string& prefix,
                                                int rank);

  // text_tokens without BOS and EOS, which are added.
  absl::Status Add(int32_t bos, std::span<const int32_t> text_tokens, int32_t eos,
                   int64_t text_bytes);
  absl::Status Close();

 private:
  TokenPartWriter(PartFileWriter tokens, PartFileWriter documents)
      : tokens_(std::move(tokens)), documents_(std::move(documents)) {}

  PartFileWriter tokens_;
  PartFileWriter documents_;
};

// Documents of one part that follow each other.
struct PartRange {
  int rank = 0;
  int64_t first_document = 0;
  int64_t documents = 0;
  int64_t first_token = 0;
  int64_t tokens = 0;
};

struct PlannedShard {
  std::string prefix;
  std::string name;  // of the file
  std::vector<PartRange> ranges;
  int64_t documents = 0;
  int64_t tokens = 0;
  int64_t text_bytes = 0;
};

// A shard is closed by the document that reaches shard_tokens. Every part of the split is complete.
absl::StatusOr<std::vector<PlannedShard>> PlanShards(const std::string& parts,
                                                     const std::string& prefix, int ranks,
                                                     int64_t shard_tokens);

// Writes the shard into `folder`. Errors of WriteTokenShard.
absl::StatusOr<ManifestShard> BuildShard(const std::string& parts, const PlannedShard& plan,
                                         const std::string& folder,
                                         const std::string& tokenizer_digest,
                                         int64_t vocabulary_size);

}  // namespace plait
