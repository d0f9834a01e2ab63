#include "kernels/attention.h"

#include "kernels/cpu/attention.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cudnn_attention.h"
#include "kernels/reference/attention.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<AttentionForwardArgs> kForward[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsAttentionForward, cpu::AttentionForward},
    {"reference", DeviceKind::kCpu, AcceptsAll<AttentionForwardArgs>, reference::AttentionForward},
    {"cudnn", DeviceKind::kCuda, cuda::AcceptsCudnnAttentionForward, cuda::CudnnAttentionForward},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsAttentionForward, cuda::AttentionForward},
};
constexpr Implementation<AttentionBackwardArgs> kBackward[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsAttentionBackward, cpu::AttentionBackward},
    {"reference", DeviceKind::kCpu, AcceptsAll<AttentionBackwardArgs>,
     reference::AttentionBackward},
    {"cudnn", DeviceKind::kCuda, cuda::AcceptsCudnnAttentionBackward, cuda::CudnnAttentionBackward},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsAttentionBackward, cuda::AttentionBackward},
};

// Offsets from 0 to `tokens`, never falling.
absl::Status CheckOffsets(absl::string_view name, const int32_t* offsets, int64_t documents,
                          int64_t tokens) {
  if (offsets == nullptr) return absl::InvalidArgumentError(absl::StrCat(name, ": no data"));
  if (offsets[0] != 0) {
    return absl::InvalidArgumentError(absl::StrCat(name, "[0]: expected 0, got ", offsets[0]));
  }
  for (int64_t s = 0; s < documents; ++s) {
    if (offsets[s + 1] < offsets[s]) {
      return absl::InvalidArgumentError(absl::StrCat(name, "[", s + 1, "]: expected at least ",
                                                     offsets[s], ", got ", offsets[s + 1]));
    }
  }
  if (offsets[documents] != tokens) {
    return absl::InvalidArgumentError(absl::StrCat(name, "[", documents, "]: expected ", tokens,
                                                   " rows, got ", offsets[documents]));
  }
  return absl::OkStatus();
}

absl::Status CheckLayout(const AttentionLayout& layout, int64_t tokens, int64_t key_tokens) {
  if (layout.heads <= 0 || layout.kv_heads <= 0 || layout.heads % layout.kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("heads = ", layout.heads,
                     ": expected a positive multiple of kv_heads = ", layout.kv_heads));
  }
  if (layout.head_dim <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim: expected a positive number, got ", layout.head_dim));
  }
  PLAIT_RETURN_IF_ERROR(
      CheckOffsets("query_offsets", layout.query_offsets, layout.documents, tokens));
  PLAIT_RETURN_IF_ERROR(
      CheckOffsets("key_offsets", layout.key_offsets, layout.documents, key_tokens));
  if (layout.mask == AttentionMask::kNone) return absl::OkStatus();
  for (int64_t s = 0; s < layout.documents; ++s) {
    const int32_t queries = layout.query_offsets[s + 1] - layout.query_offsets[s];
    const int32_t keys = layout.key_offsets[s + 1] - layout.key_offsets[s];
    if (keys < queries) {
      return absl::InvalidArgumentError(absl::StrCat("key_offsets: document ", s,
                                                     ": expected at least as many keys as its ",
                                                     queries, " queries, got ", keys));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLogSumExp(const ConstMatrixView& log_sum_exp, const AttentionLayout& layout,
                            int64_t tokens, DType dtype) {
  PLAIT_RETURN_IF_ERROR(CheckMatrix("log_sum_exp", log_sum_exp, layout.heads, tokens));
  return CheckDType("log_sum_exp", log_sum_exp.dtype, StatisticsDType(dtype));
}

// A result is of the inputs' dtype, or not yet rounded to it.
absl::Status CheckResultDType(absl::string_view name, DType found, DType dtype) {
  if (found == StatisticsDType(dtype)) return absl::OkStatus();
  return CheckDType(name, found, dtype);
}

}  // namespace

std::span<const Implementation<AttentionForwardArgs>> AttentionForwardImplementations() {
  return kForward;
}
std::span<const Implementation<AttentionBackwardArgs>> AttentionBackwardImplementations() {
  return kBackward;
}

absl::Status AttentionForward(Execution& execution, const AttentionForwardArgs& args) {
  const AttentionLayout& layout = args.layout;
  const int64_t tokens = args.q.rows, key_tokens = args.k.rows;
  PLAIT_RETURN_IF_ERROR(CheckLayout(layout, tokens, key_tokens));
  const int64_t columns = layout.heads * layout.head_dim;
  const int64_t kv_columns = layout.kv_heads * layout.head_dim;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("q", args.q, tokens, columns));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("k", args.k, key_tokens, kv_columns));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("v", args.v, key_tokens, kv_columns));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("out", args.out, tokens, columns));
  PLAIT_RETURN_IF_ERROR(CheckDType("k", args.k.dtype, args.q.dtype));
  PLAIT_RETURN_IF_ERROR(CheckDType("v", args.v.dtype, args.q.dtype));
  PLAIT_RETURN_IF_ERROR(CheckResultDType("out", args.out.dtype, args.q.dtype));
  if (args.log_sum_exp) {
    PLAIT_RETURN_IF_ERROR(CheckLogSumExp(args.log_sum_exp, layout, tokens, args.q.dtype));
  }
  return RunFirstAccepted(execution, "attention forward", AttentionForwardImplementations(), args);
}

absl::Status AttentionBackward(Execution& execution, const AttentionBackwardArgs& args) {
  const AttentionLayout& layout = args.layout;
  const int64_t tokens = args.q.rows, key_tokens = args.k.rows;
  PLAIT_RETURN_IF_ERROR(CheckLayout(layout, tokens, key_tokens));
  const int64_t columns = layout.heads * layout.head_dim;
  const int64_t kv_columns = layout.kv_heads * layout.head_dim;
  struct Named {
    absl::string_view name;
    ConstMatrixView view;
    int64_t rows, columns;
  };
  for (const Named& matrix :
       {Named{"q", args.q, tokens, columns}, Named{"k", args.k, key_tokens, kv_columns},
        Named{"v", args.v, key_tokens, kv_columns}, Named{"out", args.out, tokens, columns},
        Named{"dout", args.dout, tokens, columns}}) {
    PLAIT_RETURN_IF_ERROR(CheckMatrix(matrix.name, matrix.view, matrix.rows, matrix.columns));
    PLAIT_RETURN_IF_ERROR(CheckDType(matrix.name, matrix.view.dtype, args.q.dtype));
  }
  for (const Named& matrix :
       {Named{"dq", args.dq, tokens, columns}, Named{"dk", args.dk, key_tokens, kv_columns},
        Named{"dv", args.dv, key_tokens, kv_columns}}) {
    PLAIT_RETURN_IF_ERROR(CheckMatrix(matrix.name, matrix.view, matrix.rows, matrix.columns));
    PLAIT_RETURN_IF_ERROR(CheckResultDType(matrix.name, matrix.view.dtype, args.q.dtype));
  }
  PLAIT_RETURN_IF_ERROR(CheckLogSumExp(args.log_sum_exp, layout, tokens, args.q.dtype));
  return RunFirstAccepted(execution, "attention backward", AttentionBackwardImplementations(),
                          args);
}

}  // namespace plait
