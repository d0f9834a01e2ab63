#include "kernels/vocabulary_merge.h"

#include "kernels/cuda/vocabulary_merge.h"
#include "kernels/reference/vocabulary_merge.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<VocabularyMergeArgs> kImplementations[] = {
    {"reference", DeviceKind::kCpu, AcceptsAll<VocabularyMergeArgs>, reference::VocabularyMerge},
    {"cuda", DeviceKind::kCuda, AcceptsAll<VocabularyMergeArgs>, cuda::VocabularyMerge},
};

}  // namespace

std::span<const Implementation<VocabularyMergeArgs>> VocabularyMergeImplementations() {
  return kImplementations;
}

absl::Status VocabularyMerge(Execution& execution, const VocabularyMergeArgs& args) {
  const ConstMatrixView& parts = args.parts;
  if (parts.rows == 0 || parts.rows % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("parts: expected two rows for each part, got ", parts.rows));
  }
  if (parts.dtype != DType::kF32 && parts.dtype != DType::kF64) {
    return absl::InvalidArgumentError(
        absl::StrCat("parts: expected f32 or f64, got ", Name(parts.dtype)));
  }
  PLAIT_RETURN_IF_ERROR(CheckVector("log_sum_exp", args.log_sum_exp, parts.columns));
  PLAIT_RETURN_IF_ERROR(CheckDType("log_sum_exp", args.log_sum_exp.dtype, parts.dtype));
  PLAIT_RETURN_IF_ERROR(CheckVector("log_probability", args.log_probability, parts.columns));
  PLAIT_RETURN_IF_ERROR(CheckDType("log_probability", args.log_probability.dtype, parts.dtype));
  return RunFirstAccepted(execution, "merge of a vocabulary's parts",
                          VocabularyMergeImplementations(), args);
}

}  // namespace plait
