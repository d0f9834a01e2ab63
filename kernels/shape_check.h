// Shape and dtype checks at the entry of every operation: InvalidArgument naming the argument, what
// was expected and found. f16 is refused everywhere: tensors are stored in it, nothing computes in
// it.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"
#include "base/view.h"

namespace plait {

inline absl::Status CheckCanCompute(absl::string_view name, DType dtype) {
  if (dtype != DType::kF16) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": f16 is for storage only; convert it to bf16 or f32 first"));
}

inline absl::Status CheckMatrix(absl::string_view name, const ConstMatrixView& view, int64_t rows,
                                int64_t columns) {
  PLAIT_RETURN_IF_ERROR(CheckCanCompute(name, view.dtype));
  if (view.rows != rows || view.columns != columns) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": expected [", rows, ", ", columns,
                                                   "], got [", view.rows, ", ", view.columns, "]"));
  }
  if (view.data == nullptr && rows * columns > 0)
    return absl::InvalidArgumentError(absl::StrCat(name, ": no data"));
  return absl::OkStatus();
}

inline absl::Status CheckVector(absl::string_view name, const ConstVectorView& view, int64_t size) {
  PLAIT_RETURN_IF_ERROR(CheckCanCompute(name, view.dtype));
  if (view.size != size) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": expected width ", size, ", got ", view.size));
  }
  if (view.data == nullptr && size > 0)
    return absl::InvalidArgumentError(absl::StrCat(name, ": no data"));
  return absl::OkStatus();
}

inline absl::Status CheckDType(absl::string_view name, DType found, DType expected) {
  if (found == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": expected ", Name(expected), ", got ", Name(found)));
}

// Offsets of documents over `tokens` rows: 0 first, `tokens` last, never falling.
inline absl::Status CheckDocumentOffsets(absl::string_view name, const int32_t* offsets,
                                         int64_t documents, int64_t tokens) {
  if (documents < 0 || offsets == nullptr)
    return absl::InvalidArgumentError(absl::StrCat(name, ": no data"));
  if (offsets[0] != 0) {
    return absl::InvalidArgumentError(absl::StrCat(name, "[0]: expected 0, got ", offsets[0]));
  }
  for (int64_t document = 0; document < documents; ++document) {
    if (offsets[document + 1] >= offsets[document]) continue;
    return absl::InvalidArgumentError(absl::StrCat(name, "[", document + 1, "]: expected at least ",
                                                   offsets[document], ", got ",
                                                   offsets[document + 1]));
  }
  if (offsets[documents] != tokens) {
    return absl::InvalidArgumentError(absl::StrCat(name, "[", documents, "]: expected ", tokens,
                                                   " tokens, got ", offsets[documents]));
  }
  return absl::OkStatus();
}

}  // namespace plait
