#include "data/hdf5_token_source.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "data/keyed_permutation.h"

namespace plait {

absl::Status ReadWindow(const PreparedTokens& tokens, const DocumentOrder& order, int64_t begin,
                        int64_t count, Row* out) {
  out->tokens.resize(static_cast<size_t>(count));
  out->targets.assign(static_cast<size_t>(count), 0);
  out->weights.assign(static_cast<size_t>(count), 1.0f);
  out->document_starts.clear();
  for (int64_t filled = 0; filled < count;) {
    const DocumentOrder::Place place = order.At(begin + filled);
    const int64_t from = tokens.DocumentOffset(place.document) + place.token;
    const int64_t document_end = tokens.DocumentOffset(place.document + 1);
    const int64_t piece = std::min(document_end - from, count - filled);
    const int64_t targets =
        std::min(document_end - from - 1, piece);  // one fewer where the document ends
    PLAIT_RETURN_IF_ERROR(tokens.Copy(from, piece, &out->tokens[static_cast<size_t>(filled)]));
    if (targets > 0)
      PLAIT_RETURN_IF_ERROR(
          tokens.Copy(from + 1, targets, &out->targets[static_cast<size_t>(filled)]));
    out->document_starts.push_back(filled);
    filled += piece;
    if (targets < piece) out->weights[static_cast<size_t>(filled - 1)] = 0.0f;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Hdf5TokenSource>> Hdf5TokenSource::Open(
    const std::string& folder, uint64_t seed, const std::string& expected_tokenizer_digest) {
  PLAIT_ASSIGN_OR_RETURN(PreparedTokens tokens, PreparedTokens::Open(folder, DataSplit::kTrain));
  const std::string& digest = tokens.manifest().tokenizer.digest;
  if (!expected_tokenizer_digest.empty() && expected_tokenizer_digest != digest) {
    return absl::FailedPreconditionError(absl::StrCat(folder, ": prepared with tokenizer ", digest,
                                                      ", the run has ", expected_tokenizer_digest));
  }
  return std::unique_ptr<Hdf5TokenSource>(new Hdf5TokenSource(std::move(tokens), seed));
}

absl::Status Hdf5TokenSource::ReadRow(const StageRows& stage, int64_t step, int64_t row,
                                      Row* out) const {
  PLAIT_CHECK(stage.row_tokens > 0 && step >= 0 && row >= 0 && row < stage.rows_per_step);
  const int64_t windows = NumWindows(stage.row_tokens);
  const int64_t visit = step * stage.rows_per_step + row;
  const int64_t epoch = visit / windows;
  const auto key = [&](const char* what) {
    return RandomKey(seed_, RandomPurpose::kSampleOrder,
                     absl::StrCat("stage ", stage.stage, " ", what), static_cast<uint32_t>(epoch));
  };
  const int64_t window = KeyedPermutation(key("windows"), windows)(visit % windows);
  const DocumentOrder order(
      tokens_.num_documents(),
      [this](int64_t document) { return tokens_.DocumentOffset(document); }, key("documents"));
  const int64_t begin = window * stage.row_tokens;
  return ReadWindow(tokens_, order, begin, std::min(stage.row_tokens, tokens_.num_tokens() - begin),
                    out);
}

}  // namespace plait
