#include <algorithm>
#include <cmath>

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/optimizer_update.h"
#include "kernels/cuda/reduction.h"
#include "kernels/cuda/tensor_table.h"
#include "kernels/cuda/vector_access.h"

namespace plait::cuda {
namespace {

constexpr int kBlockThreads = 256;

// The update's factors, made in double and rounded once:
//   p = p * keep - rate * m / (sqrt(v) * inverse_root + epsilon)
// with a tensor's keep = 1 - learning_rate * weight_decay.
template <class A>
struct AdamWFactors {
  explicit AdamWFactors(const AdamWUpdateArgs& args) {
    const double step = static_cast<double>(args.step);
    gradient_scale = static_cast<A>(args.gradient_scale);
    beta1 = static_cast<A>(args.beta1);
    beta2 = static_cast<A>(args.beta2);
    one_minus_beta1 = static_cast<A>(1.0 - args.beta1);
    one_minus_beta2 = static_cast<A>(1.0 - args.beta2);
    rate = static_cast<A>(args.learning_rate / (1.0 - std::pow(args.beta1, step)));
    inverse_root = static_cast<A>(1.0 / std::sqrt(1.0 - std::pow(args.beta2, step)));
    epsilon = static_cast<A>(args.epsilon);
  }
  A gradient_scale, beta1, beta2, one_minus_beta1, one_minus_beta2;
  A rate, inverse_root, epsilon;
};

// A: element type of the arrays.
template <class A>
struct AdamWEntry {
  A* parameter;
  const A* gradient;
  A* first_moment;
  A* second_moment;
  void* compute;  // null: no copy
  int64_t elements;
  A keep;
  unsigned first_block;
  int head;  // elements before the first one from which all arrays are aligned; negative where
             // there is none
};
template <class A>
using AdamWTable = TensorTable<AdamWEntry<A>, sizeof(AdamWFactors<A>)>;
static_assert(sizeof(AdamWTable<float>) + sizeof(AdamWFactors<float>) <= kMaxParameterBytes);
static_assert(sizeof(AdamWTable<double>) + sizeof(AdamWFactors<double>) <= kMaxParameterBytes);

// Elements [i, i + count). C: element type of the copy. An element's bits do not depend on its
// place in a vector.
template <class A, class C, int kVector>
__device__ __forceinline__ void Update(const AdamWEntry<A>& tensor, const AdamWFactors<A>& factors,
                                       int64_t i, int64_t count) {
  A parameter[kVector], gradient[kVector], first[kVector], second[kVector];
  C copy[kVector];
  LoadVector(tensor.parameter + i, count, parameter);
  LoadVector(tensor.gradient + i, count, gradient);
  LoadVector(static_cast<const A*>(tensor.first_moment) + i, count, first);
  LoadVector(static_cast<const A*>(tensor.second_moment) + i, count, second);
  PLAIT_UNROLL
  for (int k = 0; k < kVector; ++k) {
    const A g = gradient[k] * factors.gradient_scale;
    const A m = MultiplyAdd(factors.beta1, first[k], factors.one_minus_beta1 * g);
    const A v = MultiplyAdd(factors.beta2, second[k], factors.one_minus_beta2 * g * g);
    const A denominator = MultiplyAdd(SquareRoot(v), factors.inverse_root, factors.epsilon);
    const A p = MultiplyAdd(parameter[k], tensor.keep, -(factors.rate * m / denominator));
    first[k] = m;
    second[k] = v;
    parameter[k] = p;
    copy[k] = Round<C>(p);
  }
  StoreVector(first, count, tensor.first_moment + i);
  StoreVector(second, count, tensor.second_moment + i);
  StoreVector(parameter, count, tensor.parameter + i);
  if (tensor.compute != nullptr) StoreVector(copy, count, static_cast<C*>(tensor.compute) + i);
}

// A block takes kVector elements of its tensor for each thread. Where all arrays can be aligned: a
// vector a thread, behind the head, of which the first block's threads take an element each.
// Elsewhere: an element a thread, kVector times.
template <class A, class C>
__global__ void __launch_bounds__(kBlockThreads)
    AdamWKernel(AdamWTable<A> table, AdamWFactors<A> factors) {
  constexpr int kVector = kVectorElements<A>;
  const AdamWEntry<A>& tensor = table.OfBlock(blockIdx.x);
  const int64_t block = blockIdx.x - tensor.first_block;
  const int thread = static_cast<int>(threadIdx.x);
  if (tensor.head >= 0) {
    if (block == 0 && thread < tensor.head) Update<A, C, 1>(tensor, factors, thread, 1);
    const int64_t i = tensor.head + (block * kBlockThreads + thread) * kVector;
    if (i < tensor.elements) Update<A, C, kVector>(tensor, factors, i, tensor.elements - i);
  } else {
    for (int k = 0; k < kVector; ++k) {
      const int64_t i = (block * kVector + k) * kBlockThreads + thread;
      if (i < tensor.elements) Update<A, C, 1>(tensor, factors, i, 1);
    }
  }
}

// As AdamWEntry::head.
int AlignedHead(const AdamWTensor& tensor, int vector) {
  for (int head = 0; head < vector; ++head) {
    const auto aligned = [&](const ConstVectorView& view) {
      return !view || IsAligned(static_cast<const char*>(view.data) +
                                    static_cast<size_t>(head) * SizeOf(view.dtype),
                                view.dtype, vector);
    };
    if (aligned(tensor.parameter) && aligned(tensor.gradient) && aligned(tensor.first_moment) &&
        aligned(tensor.second_moment) && aligned(tensor.compute)) {
      return static_cast<int>(std::min<int64_t>(head, tensor.parameter.size));
    }
  }
  return -1;
}

template <class A>
void AddAdamW(AdamWTable<A>& table, const AdamWTensor& tensor, double learning_rate) {
  constexpr int kVector = kVectorElements<A>;
  const int64_t elements = tensor.parameter.size;
  if (elements == 0) return;
  const int head = AlignedHead(tensor, kVector);
  const int64_t in_vectors = elements - std::max(head, 0);
  table.Add({.parameter = tensor.parameter.as<A>(),
             .gradient = tensor.gradient.as<A>(),
             .first_moment = tensor.first_moment.as<A>(),
             .second_moment = tensor.second_moment.as<A>(),
             .compute = tensor.compute.data,
             .elements = elements,
             .keep = static_cast<A>(1.0 - learning_rate * tensor.weight_decay),
             .first_block = 0,
             .head = head},
            std::max(1u, BlocksFor(in_vectors, kBlockThreads * kVector)));
}

template <class T>
struct SquaredNormEntry {
  const T* x;
  double* tile_sums;
  int64_t elements;
  unsigned first_block;
  bool aligned;  // whether the lanes of a warp may load their elements at once
};
template <class T>
using SquaredNormTable = TensorTable<SquaredNormEntry<T>, 0>;
static_assert(sizeof(SquaredNormTable<double>) <= kMaxParameterBytes);

constexpr int kLaneElements = static_cast<int>(kSquaredNormTile) / kWarpThreads;
constexpr int kTilesOfBlock = kBlockThreads / kWarpThreads;

// A warp a tile.
template <class T>
__global__ void __launch_bounds__(kBlockThreads) SquaredNormKernel(SquaredNormTable<T> table) {
  const SquaredNormEntry<T>& tensor = table.OfBlock(blockIdx.x);
  const int64_t block = blockIdx.x - tensor.first_block;
  const int64_t tile = block * kTilesOfBlock + threadIdx.x / kWarpThreads;
  if (tile * kSquaredNormTile >= tensor.elements) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int64_t begin = tile * kSquaredNormTile + lane * kLaneElements;
  const int64_t count = tensor.elements - begin;
  T x[kLaneElements];
  if (tensor.aligned) {
    LoadVector(tensor.x + begin, count, x);
  } else {
    PLAIT_UNROLL
    for (int i = 0; i < kLaneElements; ++i) x[i] = i < count ? tensor.x[begin + i] : T{};
  }
  double sum = 0;
  PLAIT_UNROLL
  for (int i = 0; i < kLaneElements; ++i) {
    const double value = Load(x[i]);
    sum = fma(value, value, sum);
  }
  sum = WarpSum(sum);
  if (lane == 0) tensor.tile_sums[tile] = sum;
}

}  // namespace

std::string AcceptsAdamWUpdate(const AdamWUpdateArgs& args) {
  if (args.dtype() != DType::kF32 && args.dtype() != DType::kF64) {
    return "parameters are neither f32 nor f64";
  }
  return IsFloating(args.compute_dtype()) ? "" : "compute is not floating";
}

absl::Status AdamWUpdate(Execution& execution, const AdamWUpdateArgs& args) {
  return DispatchWide(args.dtype(), [&](auto parameter) {
    using A = typename decltype(parameter)::Type;
    const AdamWFactors<A> factors(args);
    return DispatchFloating(args.compute_dtype(), [&](auto copy) {
      using C = typename decltype(copy)::Type;
      return LaunchInTables<AdamWTable<A>>(
          args.tensors,
          [&](AdamWTable<A>& table, const AdamWTensor& tensor) {
            AddAdamW(table, tensor, args.learning_rate);
          },
          [&](const AdamWTable<A>& table) {
            return ToStatus(LaunchKernel(AdamWKernel<A, C>, {table.blocks()}, {kBlockThreads}, 0,
                                         execution.compute().handle(), table, factors),
                            "adamw_update");
          });
    });
  });
}

std::string AcceptsSquaredNorm(const SquaredNormArgs& args) {
  return args.dtype() == DType::kF32 || args.dtype() == DType::kF64 ? ""
                                                                    : "x is neither f32 nor f64";
}

absl::Status SquaredNorm(Execution& execution, const SquaredNormArgs& args) {
  return DispatchWide(args.dtype(), [&](auto t) {
    using T = typename decltype(t)::Type;
    return LaunchInTables<SquaredNormTable<T>>(
        args.tensors,
        [](SquaredNormTable<T>& table, const SquaredNormTensor& tensor) {
          if (tensor.x.size == 0) return;
          table.Add({.x = tensor.x.as<T>(),
                     .tile_sums = tensor.tile_sums.as<double>(),
                     .elements = tensor.x.size,
                     .first_block = 0,
                     .aligned = IsAligned(tensor.x, kLaneElements)},
                    BlocksFor(tensor.tile_sums.size, kTilesOfBlock));
        },
        [&](const SquaredNormTable<T>& table) {
          return ToStatus(LaunchKernel(SquaredNormKernel<T>, {table.blocks()}, {kBlockThreads}, 0,
                                       execution.compute().handle(), table),
                          "squared_norm");
        });
  });
}

}  // namespace plait::cuda
