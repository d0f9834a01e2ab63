#include "data/prepared_tokens.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/hdf5_file.h"
#include "base/status_macros.h"

namespace plait {
namespace {

// Index of the part that holds `position`; the position past the end belongs to the last part.
size_t PartOf(const std::vector<int64_t>& firsts, int64_t position) {
  const auto after = std::upper_bound(firsts.begin(), firsts.end() - 1, position);
  return static_cast<size_t>(after - firsts.begin()) - 1;
}

}  // namespace

absl::StatusOr<PreparedTokens> PreparedTokens::Open(const std::string& folder, DataSplit split) {
  PreparedTokens tokens;
  PLAIT_ASSIGN_OR_RETURN(tokens.manifest_, ReadManifest(folder));
  const PreparedManifest& manifest = tokens.manifest_;
  const bool train = split == DataSplit::kTrain;
  const std::vector<ManifestShard>& shards = train ? manifest.train : manifest.heldout;
  if (shards.empty()) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": has no ", train ? "training" : "held-out", " shards"));
  }
  for (const ManifestShard& entry : shards) {
    const std::string path = absl::StrCat(folder, "/", entry.file.name);
    PLAIT_ASSIGN_OR_RETURN(TokenShard shard, TokenShard::Open(path, entry.file.bytes));
    if (shard.tokenizer_digest() != manifest.tokenizer.digest ||
        shard.vocabulary_size() != manifest.vocabulary_size) {
      return absl::DataLossError(absl::StrCat(path, ": made with tokenizer ",
                                              shard.tokenizer_digest(), ", the manifest has ",
                                              manifest.tokenizer.digest));
    }
    tokens.first_document_.push_back(tokens.first_document_.back() + shard.num_documents());
    tokens.first_token_.push_back(tokens.first_token_.back() + shard.num_tokens());
    tokens.paths_.push_back(path);
    tokens.shards_.push_back(std::move(shard));
  }
  const std::string vocabulary = absl::StrCat(folder, "/", manifest.vocabulary.name);
  PLAIT_ASSIGN_OR_RETURN(const Hdf5File file, Hdf5File::Open(vocabulary));
  PLAIT_ASSIGN_OR_RETURN(tokens.byte_lengths_, file.Read<int32_t>("byte_length"));
  if (static_cast<int64_t>(tokens.byte_lengths_.size()) != manifest.vocabulary_size) {
    return absl::DataLossError(absl::StrCat(vocabulary, ": expected ", manifest.vocabulary_size,
                                            " byte lengths, found ", tokens.byte_lengths_.size()));
  }
  return tokens;
}

int64_t PreparedTokens::DocumentOffset(int64_t document) const {
  const size_t shard = PartOf(first_document_, document);
  return first_token_[shard] + shards_[shard].DocumentOffset(document - first_document_[shard]);
}

absl::Status PreparedTokens::Copy(int64_t begin, int64_t count, int32_t* out) const {
  PLAIT_CHECK(begin >= 0 && count >= 0 && begin <= num_tokens() - count);
  const int64_t vocabulary = manifest_.vocabulary_size;
  while (count > 0) {
    const size_t shard = PartOf(first_token_, begin);
    const int64_t part = std::min(count, first_token_[shard + 1] - begin);
    shards_[shard].Copy(begin - first_token_[shard], part, out);
    for (int64_t i = 0; i < part; ++i) {
      if (out[i] < 0 || out[i] >= vocabulary) {
        return absl::DataLossError(absl::StrCat(
            paths_[shard], ": token ", begin - first_token_[shard] + i, " is ",
            static_cast<uint32_t>(out[i]), ", outside the vocabulary of ", vocabulary));
      }
    }
    begin += part;
    out += part;
    count -= part;
  }
  return absl::OkStatus();
}

}  // namespace plait
