#include <algorithm>
#include <cmath>

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/optimizer_update.h"
#include "kernels/cuda/reduction.h"
#include "kernels/cuda/vector_access.h"

namespace plait::cuda {
namespace {

constexpr int kBlockThreads = 256;

// The update's factors, made in double and rounded once:
//   p = p * keep - rate * m / (sqrt(v) * inverse_root + epsilon)
template <class A>
struct AdamWFactors {
  explicit AdamWFactors(const AdamWUpdateArgs& args) {
    const double step = static_cast<double>(args.step);
    gradient_scale = static_cast<A>(args.gradient_scale);
    beta1 = static_cast<A>(args.beta1);
    beta2 = static_cast<A>(args.beta2);
    one_minus_beta1 = static_cast<A>(1.0 - args.beta1);
    one_minus_beta2 = static_cast<A>(1.0 - args.beta2);
    keep = static_cast<A>(1.0 - args.learning_rate * args.weight_decay);
    rate = static_cast<A>(args.learning_rate / (1.0 - std::pow(args.beta1, step)));
    inverse_root = static_cast<A>(1.0 / std::sqrt(1.0 - std::pow(args.beta2, step)));
    epsilon = static_cast<A>(args.epsilon);
  }
  A gradient_scale, beta1, beta2, one_minus_beta1, one_minus_beta2;
  A keep, rate, inverse_root, epsilon;
};

// Elements [i, i + count). A, C: element types of the arrays and of the copy. An element's bits do
// not depend on its place in a vector.
template <class A, class C, int kVector>
__device__ __forceinline__ void Update(const AdamWUpdateArgs& args, const AdamWFactors<A>& factors,
                                       int64_t i, int64_t count) {
  A parameter[kVector], gradient[kVector], first[kVector], second[kVector];
  C copy[kVector];
  LoadVector(args.parameter.as<A>() + i, count, parameter);
  LoadVector(args.gradient.as<A>() + i, count, gradient);
  LoadVector(args.first_moment.as<A>() + i, count, first);
  LoadVector(args.second_moment.as<A>() + i, count, second);
  PLAIT_UNROLL
  for (int k = 0; k < kVector; ++k) {
    const A g = gradient[k] * factors.gradient_scale;
    const A m = MultiplyAdd(factors.beta1, first[k], factors.one_minus_beta1 * g);
    const A v = MultiplyAdd(factors.beta2, second[k], factors.one_minus_beta2 * g * g);
    const A denominator = MultiplyAdd(SquareRoot(v), factors.inverse_root, factors.epsilon);
    const A p = MultiplyAdd(parameter[k], factors.keep, -(factors.rate * m / denominator));
    first[k] = m;
    second[k] = v;
    parameter[k] = p;
    copy[k] = Round<C>(p);
  }
  StoreVector(first, count, args.first_moment.as<A>() + i);
  StoreVector(second, count, args.second_moment.as<A>() + i);
  StoreVector(parameter, count, args.parameter.as<A>() + i);
  if (args.compute) StoreVector(copy, count, args.compute.as<C>() + i);
}

// The first `head` elements one by one, the others in vectors.
template <class A, class C, int kVector>
__global__ void __launch_bounds__(kBlockThreads)
    AdamWKernel(AdamWUpdateArgs args, AdamWFactors<A> factors, int64_t head) {
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (thread < head) Update<A, C, 1>(args, factors, thread, 1);
  const int64_t i = head + thread * kVector;
  if (i < args.parameter.size) {
    Update<A, C, kVector>(args, factors, i, args.parameter.size - i);
  }
}

// Elements before the first one from which all arrays are aligned; negative where there is none.
int64_t AlignedHead(const AdamWUpdateArgs& args, int vector) {
  for (int64_t head = 0; head < vector; ++head) {
    const auto aligned = [&](const ConstVectorView& view) {
      return !view || IsAligned(static_cast<const char*>(view.data) +
                                    head * static_cast<int64_t>(SizeOf(view.dtype)),
                                view.dtype, vector);
    };
    if (aligned(args.parameter) && aligned(args.gradient) && aligned(args.first_moment) &&
        aligned(args.second_moment) && aligned(args.compute)) {
      return std::min(head, args.parameter.size);
    }
  }
  return -1;
}

template <class A, class C>
absl::Status LaunchAdamW(Execution& execution, const AdamWUpdateArgs& args) {
  constexpr int kVector = kVectorElements<A>;
  const int64_t aligned_head = AlignedHead(args, kVector);
  return DispatchVector<kVector>(aligned_head >= 0, [&](auto count) {
    constexpr int kCount = decltype(count)::value;
    const int64_t head = std::max<int64_t>(aligned_head, 0);
    const int64_t threads = std::max(head, (args.parameter.size - head + kCount - 1) / kCount);
    const unsigned blocks = BlocksFor(threads, kBlockThreads);
    return ToStatus(LaunchKernel(AdamWKernel<A, C, kCount>, {blocks}, {kBlockThreads}, 0,
                                 execution.compute().handle(), args, AdamWFactors<A>(args), head),
                    "adamw_update");
  });
}

// A warp a tile. kAligned: whether its lanes may load their elements at once.
template <class T, bool kAligned>
__global__ void __launch_bounds__(kBlockThreads) SquaredNormKernel(SquaredNormArgs args) {
  constexpr int kLaneElements = static_cast<int>(kSquaredNormTile) / kWarpThreads;
  const int64_t tile = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarpThreads;
  if (tile >= args.tile_sums.size) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int64_t begin = tile * kSquaredNormTile + lane * kLaneElements;
  const int64_t count = args.x.size - begin;
  T x[kLaneElements];
  if constexpr (kAligned) {
    LoadVector(args.x.as<T>() + begin, count, x);
  } else {
    PLAIT_UNROLL
    for (int i = 0; i < kLaneElements; ++i) x[i] = i < count ? args.x.as<T>()[begin + i] : T{};
  }
  double sum = 0;
  PLAIT_UNROLL
  for (int i = 0; i < kLaneElements; ++i) {
    const double value = Load(x[i]);
    sum = fma(value, value, sum);
  }
  sum = WarpSum(sum);
  if (lane == 0) args.tile_sums.as<double>()[tile] = sum;
}

}  // namespace

std::string AcceptsAdamWUpdate(const AdamWUpdateArgs& args) {
  if (args.parameter.dtype != DType::kF32 && args.parameter.dtype != DType::kF64) {
    return "parameter is neither f32 nor f64";
  }
  return !args.compute || IsFloating(args.compute.dtype) ? "" : "compute is not floating";
}

absl::Status AdamWUpdate(Execution& execution, const AdamWUpdateArgs& args) {
  return DispatchWide(args.parameter.dtype, [&](auto parameter) {
    using A = typename decltype(parameter)::Type;
    return DispatchFloating(
        args.compute ? args.compute.dtype : args.parameter.dtype,
        [&](auto copy) { return LaunchAdamW<A, typename decltype(copy)::Type>(execution, args); });
  });
}

std::string AcceptsSquaredNorm(const SquaredNormArgs& args) {
  return args.x.dtype == DType::kF32 || args.x.dtype == DType::kF64 ? ""
                                                                    : "x is neither f32 nor f64";
}

absl::Status SquaredNorm(Execution& execution, const SquaredNormArgs& args) {
  constexpr int kTilesOfBlock = kBlockThreads / kWarpThreads;
  constexpr int kLaneElements = static_cast<int>(kSquaredNormTile) / kWarpThreads;
  const unsigned blocks = BlocksFor(args.tile_sums.size, kTilesOfBlock);
  return DispatchWide(args.x.dtype, [&](auto t) {
    using T = typename decltype(t)::Type;
    const auto kernel =
        IsAligned(args.x, kLaneElements) ? SquaredNormKernel<T, true> : SquaredNormKernel<T, false>;
    return ToStatus(
        LaunchKernel(kernel, {blocks}, {kBlockThreads}, 0, execution.compute().handle(), args),
        "squared_norm");
  });
}

}  // namespace plait::cuda
