#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/real_sums.h"
#include "kernels/cuda/reduction.h"

namespace plait::cuda {
namespace {

constexpr int kBlockThreads = 256;

// R: of real; T: of values. A block takes column blockIdx.x.
template <class R, class T>
__global__ void __launch_bounds__(kBlockThreads) RowSumsKernel(RealRowSumsArgs args) {
  const R* real = args.real.as<R>();
  const int64_t column = blockIdx.x;
  double sum = 0, largest = 0;
  for (int64_t r = threadIdx.x; r < args.values.rows; r += blockDim.x) {
    if (real[r] == 0) continue;
    const double value = static_cast<double>(args.values.row<T>(r)[column]);
    sum += args.sum_of == SumOf::kSquares ? value * value : value;
    largest = value > largest ? value : largest;
  }
  if (args.sums) {
    sum = BlockSum(sum);
    if (threadIdx.x == 0) args.sums.as<double>()[column] = sum;
  }
  if (args.maxima) {
    largest = BlockMax(largest);
    if (threadIdx.x == 0) args.maxima.as<double>()[column] = largest;
  }
}

// A block takes expert blockIdx.x.
template <class R, class T>
__global__ void __launch_bounds__(kBlockThreads) ExpertSumsKernel(RealExpertSumsArgs args) {
  const R* real = args.real.as<R>();
  const T* pair_weight = args.pair_weight.as<T>();
  const T* square_sum = args.square_sum.as<T>();
  const T* absolute_max = args.absolute_max.as<T>();
  const auto expert = static_cast<int32_t>(blockIdx.x);
  double count = 0, sum = 0, largest = 0;
  for (int64_t i = threadIdx.x; i < args.square_sum.size; i += blockDim.x) {
    if (args.choices[i] != expert || real[i / args.experts_per_token] == 0) continue;
    const int32_t row = args.token_row[i];
    const double weight = static_cast<double>(pair_weight[i]);
    const double magnitude = static_cast<double>(absolute_max[row]) / weight;
    count += 1;
    sum += static_cast<double>(square_sum[row]) / (weight * weight);
    largest = magnitude > largest ? magnitude : largest;
  }
  count = BlockSum(count);
  sum = BlockSum(sum);
  largest = BlockMax(largest);
  if (threadIdx.x != 0) return;
  args.tokens.as<double>()[expert] = count;
  args.square_sums.as<double>()[expert] = sum;
  args.maxima.as<double>()[expert] = largest;
}

}  // namespace

absl::Status RealRowSums(Execution& execution, const RealRowSumsArgs& args) {
  if (args.values.columns == 0) return absl::OkStatus();
  return DispatchWide(args.real.dtype, [&](auto r) {
    return DispatchWide(args.values.dtype, [&](auto t) {
      using R = typename decltype(r)::Type;
      using T = typename decltype(t)::Type;
      return ToStatus(
          LaunchKernel(RowSumsKernel<R, T>, {static_cast<unsigned>(args.values.columns)},
                       {kBlockThreads}, 0, execution.compute().handle(), args),
          "sums over real rows");
    });
  });
}

absl::Status RealExpertSums(Execution& execution, const RealExpertSumsArgs& args) {
  if (args.tokens.size == 0) return absl::OkStatus();
  return DispatchWide(args.real.dtype, [&](auto r) {
    return DispatchWide(args.square_sum.dtype, [&](auto t) {
      using R = typename decltype(r)::Type;
      using T = typename decltype(t)::Type;
      return ToStatus(
          LaunchKernel(ExpertSumsKernel<R, T>, {static_cast<unsigned>(args.tokens.size)},
                       {kBlockThreads}, 0, execution.compute().handle(), args),
          "sums over experts");
    });
  });
}

}  // namespace plait::cuda
