#include "data/heldout_reader.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "data/hdf5_token_source.h"
#include "data/sequence_packing.h"

namespace plait {

absl::StatusOr<HeldoutReader> HeldoutReader::Open(const std::string& folder, int64_t row_tokens,
                                                  int64_t max_tokens) {
  if (row_tokens < 1)
    return absl::InvalidArgumentError(absl::StrCat("held-out rows of ", row_tokens, " tokens"));
  PLAIT_ASSIGN_OR_RETURN(PreparedTokens tokens, PreparedTokens::Open(folder, DataSplit::kHeldout));
  HeldoutReader reader(std::move(tokens), row_tokens);
  const int64_t all = (reader.tokens_.num_tokens() + row_tokens - 1) / row_tokens;
  const int64_t rows = max_tokens <= 0 ? all : std::clamp<int64_t>(max_tokens / row_tokens, 1, all);
  // Evenly spread without overflow: row i is window floor(i x all / rows).
  for (int64_t i = 0; i < rows; ++i)
    reader.windows_.push_back(all / rows * i + all % rows * i / rows);
  return reader;
}

absl::StatusOr<HeldoutBatch> HeldoutReader::Read(int64_t begin, int64_t count) const {
  PLAIT_CHECK(begin >= 0 && count >= 1 && begin < num_rows());
  const DocumentOrder order(
      tokens_.num_documents(),
      [this](int64_t document) { return tokens_.DocumentOffset(document); }, std::nullopt);
  std::vector<Row> rows(static_cast<size_t>(count));
  HeldoutBatch result;
  for (int64_t r = 0; r < std::min(count, num_rows() - begin); ++r) {
    Row& row = rows[static_cast<size_t>(r)];
    const int64_t from = windows_[static_cast<size_t>(begin + r)] * row_tokens_;
    PLAIT_RETURN_IF_ERROR(
        ReadWindow(tokens_, order, from, std::min(row_tokens_, tokens_.num_tokens() - from), &row));
    for (size_t t = 0; t < row.tokens.size(); ++t) {
      if (row.weights[t] == 0) continue;
      const int64_t bytes = tokens_.byte_lengths()[static_cast<size_t>(row.targets[t])];
      const bool prefix =
          tokens_.manifest().has_dummy_prefix && row.tokens[t] == tokens_.manifest().bos_id;
      result.text_bytes += prefix && bytes > 0 ? bytes - 1 : bytes;
    }
  }
  result.batch = PackRows(rows, row_tokens_);
  return result;
}

}  // namespace plait
