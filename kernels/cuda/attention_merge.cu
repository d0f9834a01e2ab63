#include <cmath>

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/attention_merge.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/reduction.h"
#include "kernels/cuda/vector_access.h"

namespace plait::cuda {
namespace {

constexpr int kWarps = 8;

__device__ __forceinline__ float ExactExp(float x) { return expf(x); }
__device__ __forceinline__ double ExactExp(double x) { return exp(x); }

// Block (kWarps tokens, head).
template <class T, int kVector>
__global__ void __launch_bounds__(kWarps* kWarpThreads)
    MergeKernel(AttentionMergeArgs args, unsigned heads) {
  const int64_t h = blockIdx.x % heads;
  const int64_t t = int64_t{blockIdx.x / heads} * kWarps + threadIdx.y;
  if (t >= args.out.rows) return;
  T* const log_sum_exp = args.log_sum_exp.row<T>(h) + t;
  const T first = *log_sum_exp, second = args.added_log_sum_exp.row<T>(h)[t];
  if (second == -static_cast<T>(HUGE_VAL)) return;
  // A NaN on either side makes a weight NaN, and so all that follows.
  const T largest = first < second ? second : first;
  const T first_weight = ExactExp(first - largest), second_weight = ExactExp(second - largest);
  const T total = first_weight + second_weight;
  const T first_share = first_weight / total, second_share = second_weight / total;
  const int64_t dim = args.out.columns / heads;
  T* const out = args.out.row<T>(t) + h * dim;
  const T* const added = args.added_out.row<T>(t) + h * dim;
  for (int64_t d = int64_t{threadIdx.x} * kVector; d < dim; d += kWarpThreads * kVector) {
    T own[kVector], other[kVector];
    LoadVector(out + d, dim - d, own);
    LoadVector(added + d, dim - d, other);
    PLAIT_UNROLL
    for (int i = 0; i < kVector; ++i) own[i] = first_share * own[i] + second_share * other[i];
    StoreVector(own, dim - d, out + d);
  }
  __syncwarp();  // all have read what is overwritten
  if (threadIdx.x == 0) *log_sum_exp = largest + Log(total);
}

}  // namespace

std::string AcceptsAttentionMerge(const AttentionMergeArgs& args) {
  return args.out.dtype == DType::kF32 || args.out.dtype == DType::kF64
             ? ""
             : "out is neither f32 nor f64";
}

absl::Status AttentionMerge(Execution& execution, const AttentionMergeArgs& args) {
  const int64_t heads = args.log_sum_exp.rows;
  return DispatchWide(args.out.dtype, [&](auto t) {
    using T = typename decltype(t)::Type;
    constexpr int kVector = kVectorElements<T>;
    const bool aligned = IsAligned(args.out, kVector) && IsAligned(args.added_out, kVector) &&
                         args.out.columns / heads % kVector == 0;
    return DispatchVector<kVector>(aligned, [&](auto count) {
      constexpr int kCount = decltype(count)::value;
      const auto blocks = static_cast<unsigned>((args.out.rows + kWarps - 1) / kWarps * heads);
      return ToStatus(
          LaunchKernel(MergeKernel<T, kCount>, {blocks}, {kWarpThreads, kWarps}, 0,
                       execution.compute().handle(), args, static_cast<unsigned>(heads)),
          "attention merge");
    });
  });
}

}  // namespace plait::cuda
