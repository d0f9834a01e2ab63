#include "data/shard_builder.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "data/token_shard.h"

namespace plait {
namespace {

struct DocumentRecord {
  int64_t tokens = 0;
  int64_t text_bytes = 0;
};

std::string PartPath(const std::string& parts, const std::string& prefix, int rank,
                     const char* suffix) {
  return absl::StrFormat("%s/%s-%05d.%s", parts, prefix, rank, suffix);
}

absl::Status EndedEarly(const std::string& prefix, int rank) {
  return absl::DataLossError(
      absl::StrCat("rank ", rank, "'s part of ", prefix, ": became shorter"));
}

// Adds the documents of one range.
absl::Status AppendRange(const std::string& parts, const std::string& prefix,
                         const PartRange& range, TokenShardContent* content) {
  const size_t begin = content->tokens.size();
  content->tokens.resize(begin + static_cast<size_t>(range.tokens));
  PLAIT_ASSIGN_OR_RETURN(
      PartFileReader tokens,
      PartFileReader::Open(PartPath(parts, prefix, range.rank, "tokens"), range.first_token * 4));
  PLAIT_ASSIGN_OR_RETURN(const bool found, tokens.Read(content->tokens.data() + begin,
                                                       static_cast<size_t>(range.tokens) * 4));
  if (!found) return EndedEarly(prefix, range.rank);
  PLAIT_ASSIGN_OR_RETURN(
      PartFileReader documents,
      PartFileReader::Open(PartPath(parts, prefix, range.rank, "documents"),
                           range.first_document * static_cast<int64_t>(sizeof(DocumentRecord))));
  for (int64_t d = 0; d < range.documents; ++d) {
    DocumentRecord record;
    PLAIT_ASSIGN_OR_RETURN(const bool has_record, documents.Read(&record, sizeof(record)));
    if (!has_record) return EndedEarly(prefix, range.rank);
    content->document_offsets.push_back(content->document_offsets.back() + record.tokens);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenPartWriter> TokenPartWriter::Create(const std::string& parts,
                                                        const std::string& prefix, int rank) {
  PLAIT_ASSIGN_OR_RETURN(PartFileWriter tokens,
                         PartFileWriter::Create(PartPath(parts, prefix, rank, "tokens")));
  PLAIT_ASSIGN_OR_RETURN(PartFileWriter documents,
                         PartFileWriter::Create(PartPath(parts, prefix, rank, "documents")));
  return TokenPartWriter(std::move(tokens), std::move(documents));
}

absl::Status TokenPartWriter::Add(int32_t bos, std::span<const int32_t> text_tokens, int32_t eos,
                                  int64_t text_bytes) {
  const DocumentRecord record = {static_cast<int64_t>(text_tokens.size()) + 2, text_bytes};
  PLAIT_RETURN_IF_ERROR(tokens_.Append(&bos, sizeof(bos)));
  PLAIT_RETURN_IF_ERROR(tokens_.Append(text_tokens.data(), text_tokens.size_bytes()));
  PLAIT_RETURN_IF_ERROR(tokens_.Append(&eos, sizeof(eos)));
  return documents_.Append(&record, sizeof(record));
}

absl::Status TokenPartWriter::Close() {
  PLAIT_RETURN_IF_ERROR(tokens_.Close());
  return documents_.Close();
}

absl::StatusOr<std::vector<PlannedShard>> PlanShards(const std::string& parts,
                                                     const std::string& prefix, int ranks,
                                                     int64_t shard_tokens) {
  std::vector<PlannedShard> shards;
  bool open = false;  // whether the last shard takes more documents
  for (int rank = 0; rank < ranks; ++rank) {
    PLAIT_ASSIGN_OR_RETURN(PartFileReader documents,
                           PartFileReader::Open(PartPath(parts, prefix, rank, "documents")));
    PartRange next{.rank = rank};
    DocumentRecord record;
    while (true) {
      PLAIT_ASSIGN_OR_RETURN(const bool found, documents.Read(&record, sizeof(record)));
      if (!found) break;
      if (!open) {
        shards.push_back({prefix, absl::StrFormat("%s-%05d.h5", prefix, shards.size())});
        open = true;
      }
      PlannedShard& shard = shards.back();
      if (shard.ranges.empty() || shard.ranges.back().rank != rank) shard.ranges.push_back(next);
      PartRange& range = shard.ranges.back();
      ++range.documents;
      range.tokens += record.tokens;
      ++shard.documents;
      shard.tokens += record.tokens;
      shard.text_bytes += record.text_bytes;
      ++next.first_document;
      next.first_token += record.tokens;
      open = shard.tokens < shard_tokens;
    }
  }
  return shards;
}

absl::StatusOr<ManifestShard> BuildShard(const std::string& parts, const PlannedShard& plan,
                                         const std::string& folder,
                                         const std::string& tokenizer_digest,
                                         int64_t vocabulary_size) {
  TokenShardContent content;
  content.tokenizer_digest = tokenizer_digest;
  content.vocabulary_size = vocabulary_size;
  content.text_bytes = plan.text_bytes;
  content.tokens.reserve(static_cast<size_t>(plan.tokens));
  content.document_offsets.reserve(static_cast<size_t>(plan.documents) + 1);
  for (const PartRange& range : plan.ranges) {
    PLAIT_RETURN_IF_ERROR(AppendRange(parts, plan.prefix, range, &content));
  }
  PLAIT_RETURN_IF_ERROR(WriteTokenShard(folder + "/" + plan.name, content));
  ManifestShard shard;
  PLAIT_ASSIGN_OR_RETURN(shard.file, DescribeFile(folder, plan.name));
  shard.documents = plan.documents;
  shard.tokens = plan.tokens;
  shard.text_bytes = plan.text_bytes;
  return shard;
}

}  // namespace plait
