#include "model/sequence_layout.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/number_at.h"
#include "base/status_macros.h"

namespace plait {
TokenPart TokenPart::Of(const DeviceMesh& mesh) {
  return {.context_rank = mesh.coordinate(MeshAxis::kContext),
          .contexts = mesh.size(MeshAxis::kContext),
          .tensor_rank = mesh.coordinate(MeshAxis::kTensor),
          .tensors = mesh.size(MeshAxis::kTensor)};
}

absl::StatusOr<SequenceLayout> SequenceLayout::Create(const Tensor& token_ids,
                                                      const Tensor& document_offsets,
                                                      DType statistics_dtype,
                                                      const TokenPart& part) {
  SequenceLayout layout;
  const int64_t tokens = token_ids.num_elements();
  const auto offsets = document_offsets.values<int32_t>();
  if (offsets.empty() || offsets.front() != 0 || offsets.back() != tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("document_offsets: expected to run from 0 to ", tokens, " tokens"));
  }
  if (tokens % (part.contexts * part.tensors) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "microbatch of ", tokens,
        " tokens does not divide by context x tensor = ", part.contexts * part.tensors));
  }
  layout.tokens = tokens / part.contexts;
  layout.segment_begin = layout.tokens * part.context_rank;
  layout.rows = layout.tokens / part.tensors;
  layout.rows_begin = layout.rows * part.tensor_rank;
  layout.microbatch_document_offsets.assign(offsets.begin(), offsets.end());
  layout.positions = Tensor::OnHost(DType::kI32, {layout.tokens});
  int32_t* positions = layout.positions.data<int32_t>();
  const int64_t begin = layout.segment_begin, end = begin + layout.tokens;
  layout.document_offsets.push_back(0);
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    if (offsets[s + 1] <= offsets[s]) {
      return absl::InvalidArgumentError(absl::StrCat("document_offsets: entry ", s + 1, " is ",
                                                     offsets[s + 1], ", not above ", offsets[s]));
    }
    const int64_t first = std::max<int64_t>(offsets[s], begin);
    const int64_t last = std::min<int64_t>(offsets[s + 1], end);
    if (first >= last) continue;
    std::iota(positions + (first - begin), positions + (last - begin),
              static_cast<int32_t>(first - offsets[s]));
    layout.document_offsets.push_back(static_cast<int32_t>(last - begin));
    layout.begins_inside = layout.begins_inside || offsets[s] < begin;
    layout.ends_inside = layout.ends_inside || offsets[s + 1] > end;
  }
  layout.real = Tensor::OnHost(statistics_dtype, {layout.rows});
  const int64_t own = begin + layout.rows_begin;
  for (int64_t t = 0; t < tokens; ++t) {
    const bool real = token_ids.data<int32_t>()[t] >= 0;
    layout.real_tokens += real;
    if (t < own || t >= own + layout.rows) continue;
    SetNumber(layout.real, t - own, real ? 1 : 0);
    layout.real_rows += real;
  }
  return layout;
}

SequenceLayout SequenceLayout::Continuation(int64_t tokens, int64_t first_position,
                                            DType statistics_dtype) {
  SequenceLayout layout;
  layout.tokens = tokens;
  layout.rows = tokens;
  layout.real_rows = tokens;
  layout.real_tokens = tokens;
  layout.document_offsets = {0, static_cast<int32_t>(tokens)};
  layout.microbatch_document_offsets = layout.document_offsets;
  layout.positions = Tensor::OnHost(DType::kI32, {tokens});
  std::iota(layout.positions.data<int32_t>(), layout.positions.data<int32_t>() + tokens,
            static_cast<int32_t>(first_position));
  layout.real = Tensor::OnHost(statistics_dtype, {tokens});
  for (int64_t t = 0; t < tokens; ++t) SetNumber(layout.real, t, 1);
  return layout;
}

absl::Status SequenceLayout::MoveTo(Execution& execution) {
  PLAIT_ASSIGN_OR_RETURN(positions, execution.ToDevice(positions));
  PLAIT_ASSIGN_OR_RETURN(real, execution.ToDevice(real));
  return absl::OkStatus();
}

}  // namespace plait
