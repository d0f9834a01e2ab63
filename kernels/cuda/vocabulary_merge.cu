#include <cmath>

#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/vocabulary_merge.h"

namespace plait::cuda {
namespace {

constexpr int kBlockThreads = 128;

template <class T>
__global__ void MergeKernel(VocabularyMergeArgs args) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (t >= args.parts.columns) return;
  double largest = -HUGE_VAL, sum = 0, target = 0;
  for (int64_t part = 0; part < args.parts.rows / 2; ++part) {
    const double own = static_cast<double>(args.parts.row<T>(2 * part)[t]);
    largest = own > largest ? own : largest;
    target += static_cast<double>(args.parts.row<T>(2 * part + 1)[t]);
  }
  for (int64_t part = 0; part < args.parts.rows / 2; ++part) {
    sum += exp(static_cast<double>(args.parts.row<T>(2 * part)[t]) - largest);
  }
  const double total = largest + log(sum);
  args.log_sum_exp.as<T>()[t] = static_cast<T>(total);
  args.log_probability.as<T>()[t] = static_cast<T>(target - total);
}

}  // namespace

absl::Status VocabularyMerge(Execution& execution, const VocabularyMergeArgs& args) {
  const unsigned blocks = BlocksFor(args.parts.columns, kBlockThreads);
  return DispatchWide(args.parts.dtype, [&](auto t) {
    using T = typename decltype(t)::Type;
    return ToStatus(LaunchKernel(MergeKernel<T>, {blocks}, {kBlockThreads}, 0,
                                 execution.compute().handle(), args),
                    "merge of a vocabulary's parts");
  });
}

}  // namespace plait::cuda
