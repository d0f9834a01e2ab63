#include "model/sequence_layout.h"

#include <numeric>

#include "absl/strings/str_cat.h"

namespace plait {
namespace {

void SetReal(Tensor& real, int64_t t, double value) {
  if (real.dtype() == DType::kF64) {
    real.data<double>()[t] = value;
  } else {
    real.data<float>()[t] = static_cast<float>(value);
  }
}

}  // namespace

absl::StatusOr<SequenceLayout> SequenceLayout::Create(const Tensor& token_ids,
                                                      const Tensor& document_offsets,
                                                      DType statistics_dtype) {
  SequenceLayout layout;
  layout.tokens = token_ids.num_elements();
  const auto offsets = document_offsets.values<int32_t>();
  layout.document_offsets.assign(offsets.begin(), offsets.end());
  if (offsets.empty() || offsets.front() != 0 || offsets.back() != layout.tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("document_offsets: expected to run from 0 to ", layout.tokens, " tokens"));
  }
  layout.positions.resize(static_cast<size_t>(layout.tokens));
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    if (offsets[s + 1] <= offsets[s]) {
      return absl::InvalidArgumentError(absl::StrCat("document_offsets: entry ", s + 1, " is ",
                                                     offsets[s + 1], ", not above ", offsets[s]));
    }
    std::iota(layout.positions.begin() + offsets[s], layout.positions.begin() + offsets[s + 1], 0);
  }
  layout.real = Tensor::OnHost(statistics_dtype, {layout.tokens});
  for (int64_t t = 0; t < layout.tokens; ++t) {
    const bool real = token_ids.data<int32_t>()[t] >= 0;
    SetReal(layout.real, t, real ? 1 : 0);
    layout.real_tokens += real;
  }
  return layout;
}

SequenceLayout SequenceLayout::Continuation(int64_t tokens, int64_t first_position,
                                            DType statistics_dtype) {
  SequenceLayout layout;
  layout.tokens = tokens;
  layout.real_tokens = tokens;
  layout.document_offsets = {0, static_cast<int32_t>(tokens)};
  layout.positions.resize(static_cast<size_t>(tokens));
  std::iota(layout.positions.begin(), layout.positions.end(), static_cast<int32_t>(first_position));
  layout.real = Tensor::OnHost(statistics_dtype, {tokens});
  for (int64_t t = 0; t < tokens; ++t) SetReal(layout.real, t, 1);
  return layout;
}

}  // namespace plait
