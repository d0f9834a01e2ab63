#include "kernels/attention_merge.h"

#include "kernels/cpu/attention_merge.h"
#include "kernels/cuda/attention_merge.h"
#include "kernels/reference/attention_merge.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<AttentionMergeArgs> kImplementations[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsAttentionMerge, cpu::AttentionMerge},
    {"reference", DeviceKind::kCpu, AcceptsAll<AttentionMergeArgs>, reference::AttentionMerge},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsAttentionMerge, cuda::AttentionMerge},
};

}  // namespace

std::span<const Implementation<AttentionMergeArgs>> AttentionMergeImplementations() {
  return kImplementations;
}

absl::Status AttentionMerge(Execution& execution, const AttentionMergeArgs& args) {
  const int64_t tokens = args.out.rows, columns = args.out.columns;
  const int64_t heads = args.log_sum_exp.rows;
  const DType dtype = args.out.dtype;
  if (heads <= 0 || columns % heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("out: expected columns that ", heads, " heads divide, got ", columns));
  }
  PLAIT_RETURN_IF_ERROR(CheckDType("out", dtype, StatisticsDType(dtype)));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("out", args.out, tokens, columns));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("added_out", args.added_out, tokens, columns));
  PLAIT_RETURN_IF_ERROR(CheckDType("added_out", args.added_out.dtype, dtype));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("log_sum_exp", args.log_sum_exp, heads, tokens));
  PLAIT_RETURN_IF_ERROR(CheckDType("log_sum_exp", args.log_sum_exp.dtype, dtype));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("added_log_sum_exp", args.added_log_sum_exp, heads, tokens));
  PLAIT_RETURN_IF_ERROR(CheckDType("added_log_sum_exp", args.added_log_sum_exp.dtype, dtype));
  return RunFirstAccepted(execution, "attention merge", AttentionMergeImplementations(), args);
}

}  // namespace plait
