#include "data/sequence_packing.h"

#include <algorithm>
#include <vector>

#include "base/check.h"

namespace plait {

Batch PackRows(std::span<const Row> rows, int64_t row_tokens) {
  PLAIT_CHECK(!rows.empty());
  const int64_t total = static_cast<int64_t>(rows.size()) * row_tokens;
  Batch batch;
  batch.tokens = Tensor::OnHost(DType::kI32, {total});
  batch.targets = Tensor::OnHost(DType::kI32, {total});
  batch.token_weight = Tensor::OnHost(DType::kF32, {total});
  std::vector<int32_t> offsets;
  for (size_t r = 0; r < rows.size(); ++r) {
    const Row& row = rows[r];
    const int64_t base = static_cast<int64_t>(r) * row_tokens;
    const int64_t filled = static_cast<int64_t>(row.tokens.size());
    PLAIT_CHECK(filled <= row_tokens && row.targets.size() == row.tokens.size() &&
                row.weights.size() == row.tokens.size());
    PLAIT_CHECK(filled == 0 || (!row.document_starts.empty() && row.document_starts.front() == 0));
    std::copy(row.tokens.begin(), row.tokens.end(), batch.tokens.data<int32_t>() + base);
    std::copy(row.targets.begin(), row.targets.end(), batch.targets.data<int32_t>() + base);
    std::copy(row.weights.begin(), row.weights.end(), batch.token_weight.data<float>() + base);
    std::fill(batch.tokens.data<int32_t>() + base + filled,
              batch.tokens.data<int32_t>() + base + row_tokens, kPaddingToken);
    for (int64_t start : row.document_starts) offsets.push_back(static_cast<int32_t>(base + start));
    if (filled < row_tokens) offsets.push_back(static_cast<int32_t>(base + filled));
    for (float weight : row.weights) batch.weight_sum += weight;
    batch.real_tokens += filled;
  }
  offsets.push_back(static_cast<int32_t>(total));
  batch.document_offsets = Tensor::FromValues({static_cast<int64_t>(offsets.size())}, offsets);
  return batch;
}

}  // namespace plait
