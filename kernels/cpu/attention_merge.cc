#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_merge.cc"
#include "hwy/foreach_target.h"
// foreach_target first: it includes this file once per target.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/attention_merge.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

void MergeHead(const AttentionMergeArgs& args, int64_t t, int64_t head, int64_t dim) {
  float& log_sum_exp = args.log_sum_exp.row<float>(head)[t];
  const float added = args.added_log_sum_exp.row<float>(head)[t];
  if (added == -std::numeric_limits<float>::infinity()) return;
  const float largest = std::max(log_sum_exp, added);
  const float weight = std::exp(log_sum_exp - largest), added_weight = std::exp(added - largest);
  const float total = weight + added_weight;
  log_sum_exp = largest + std::log(total);

  const F32Tag d;
  const auto factor = hn::Set(d, weight / total), added_factor = hn::Set(d, added_weight / total);
  float* out = args.out.row<float>(t) + head * dim;
  const float* added_out = args.added_out.row<float>(t) + head * dim;
  ForEachVector(0, dim, [&](int64_t i, auto access) PLAIT_INLINE_BODY {
    const auto own = hn::Mul(access.Load(d, out + i), factor);
    access.Store(d, hn::MulAdd(access.Load(d, added_out + i), added_factor, own), out + i);
  });
}

void AttentionMergeAny(const AttentionMergeArgs& args, int num_threads) {
  const int64_t heads = args.log_sum_exp.rows, dim = args.out.columns / heads;
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t t = 0; t < args.out.rows; ++t) {
    for (int64_t head = 0; head < heads; ++head) MergeHead(args, t, head, dim);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plait::cpu {
namespace {

HWY_EXPORT(AttentionMergeAny);

}  // namespace

std::string AcceptsAttentionMerge(const AttentionMergeArgs& args) {
  return args.out.dtype == DType::kF64 ? "f64" : "";
}

absl::Status AttentionMerge(Execution& execution, const AttentionMergeArgs& args) {
  HWY_DYNAMIC_DISPATCH(AttentionMergeAny)(args, execution.num_threads());
  return absl::OkStatus();
}

}  // namespace plait::cpu
#endif  // HWY_ONCE
