#include <algorithm>

#include "base/status_macros.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/reduction.h"
#include "kernels/cuda/rms_norm.h"

namespace plait::cuda {
namespace {

constexpr int kBlockThreads = 256;
// Blocks that share the rows out in the backward: each writes one row of dweight's partial sums.
constexpr int64_t kMaxPartialRows = 264;

template <class A>
__device__ __forceinline__ A InverseSqrt(A x) {
  if constexpr (std::is_same_v<A, double>) {
    return 1.0 / sqrt(x);
  } else {
    return 1.0f / sqrtf(x);
  }
}

// T: of x and y; W: of the weight. A block takes one row.
template <class T, class W>
__global__ void __launch_bounds__(kBlockThreads) ForwardKernel(RmsNormForwardArgs args) {
  using A = Accumulator<T>;
  const int64_t t = blockIdx.x, dim = args.x.columns;
  const T* x = args.x.row<T>(t);
  const T* residual = args.residual ? args.residual.row<T>(t) : nullptr;
  T* sum = args.residual ? args.sum.row<T>(t) : nullptr;
  A square_sum = 0, x_square_sum = 0, x_max = 0;
  for (int64_t d = threadIdx.x; d < dim; d += blockDim.x) {
    const A value = Load(x[d]);
    x_square_sum += value * value;
    const A magnitude = value < 0 ? -value : value;
    x_max = magnitude > x_max ? magnitude : x_max;
    A r = value;
    if (residual != nullptr) {
      const T rounded = Round<T>(Load(residual[d]) + value);
      sum[d] = rounded;
      r = Load(rounded);
    }
    square_sum += r * r;
  }
  square_sum = BlockSum(square_sum);
  const A s = InverseSqrt(square_sum / static_cast<A>(dim) + static_cast<A>(args.epsilon));
  const W* weight = args.weight.as<W>();
  T* y = args.y.row<T>(t);
  for (int64_t d = threadIdx.x; d < dim; d += blockDim.x) {
    const A r = Load(residual != nullptr ? sum[d] : x[d]);
    y[d] = Round<T>(static_cast<A>(Load(weight[d])) * r * s);
  }
  if (args.inverse_rms && threadIdx.x == 0) args.inverse_rms.as<A>()[t] = s;
  if (args.activation_square_sum) {
    const A all = BlockSum(x_square_sum);
    if (threadIdx.x == 0) args.activation_square_sum.as<A>()[t] = all;
  }
  if (args.activation_absolute_max) {
    const A all = BlockMax(x_max);
    if (threadIdx.x == 0) args.activation_absolute_max.as<A>()[t] = all;
  }
}

// Block b takes rows b, b + blocks, ...; each thread keeps dweight of its columns, one by one, in
// row b of `partial` [blocks, dim].
template <class T, class W>
__global__ void __launch_bounds__(kBlockThreads)
    BackwardKernel(RmsNormBackwardArgs args, Accumulator<T>* partial) {
  using A = Accumulator<T>;
  const int64_t tokens = args.r.rows, dim = args.r.columns;
  const W* weight = args.weight.as<W>();
  A* own_partial = partial + static_cast<int64_t>(blockIdx.x) * dim;
  for (int64_t d = threadIdx.x; d < dim; d += blockDim.x) own_partial[d] = 0;
  for (int64_t t = blockIdx.x; t < tokens; t += gridDim.x) {
    const T* dy = args.dy.row<T>(t);
    const T* r = args.r.row<T>(t);
    const A s = args.inverse_rms.as<A>()[t];
    A product = 0;
    for (int64_t d = threadIdx.x; d < dim; d += blockDim.x) {
      product += Load(dy[d]) * static_cast<A>(Load(weight[d])) * Load(r[d]);
    }
    const A mean = BlockSum(product) / static_cast<A>(dim);
    const T* dr_in = args.dr_in ? args.dr_in.row<T>(t) : nullptr;
    T* dr = args.dr.row<T>(t);
    for (int64_t d = threadIdx.x; d < dim; d += blockDim.x) {
      const A dy_d = Load(dy[d]), r_d = Load(r[d]);
      const A g = dy_d * static_cast<A>(Load(weight[d]));
      const A residual = dr_in != nullptr ? static_cast<A>(Load(dr_in[d])) : A{0};
      own_partial[d] += dy_d * r_d * s;
      dr[d] = Round<T>(residual + s * (g - r_d * s * s * mean));
    }
  }
}

// out[d] += the sum of partial[:, d], row by row.
template <class A, class G>
__global__ void AddPartialsKernel(const A* partial, int64_t rows, int64_t dim, G* out) {
  const int64_t d = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (d >= dim) return;
  A sum = 0;
  for (int64_t row = 0; row < rows; ++row) sum += partial[row * dim + d];
  out[d] += static_cast<G>(sum);
}

// Statistics are kept in the dtype that goes with x.
std::string Accepts(DType x, DType weight, DType statistics) {
  if (!IsFloating(x) || !IsFloating(weight)) return "dtypes other than bf16, f32 and f64";
  if (weight != x && weight != StatisticsDType(x)) return "a weight of another precision";
  if (statistics != StatisticsDType(x)) return "statistics of another precision";
  return "";
}

// body(TypeTag<T>, TypeTag<W>).
template <class Body>
auto Dispatch(DType x, DType weight, Body&& body) {
  return DispatchFloating(x, [&](auto t) {
    using T = typename decltype(t)::Type;
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (weight == DType::kF32) return body(t, TypeTag<float>());
    }
    return body(t, t);
  });
}

}  // namespace

std::string AcceptsRmsNormForward(const RmsNormForwardArgs& args) {
  for (const VectorView& view :
       {args.inverse_rms, args.activation_square_sum, args.activation_absolute_max}) {
    if (view && view.dtype != StatisticsDType(args.x.dtype)) {
      return "statistics of another precision";
    }
  }
  return Accepts(args.x.dtype, args.weight.dtype, StatisticsDType(args.x.dtype));
}

absl::Status RmsNormForward(Execution& execution, const RmsNormForwardArgs& args) {
  if (args.x.rows == 0) return absl::OkStatus();
  return Dispatch(args.x.dtype, args.weight.dtype, [&](auto t, auto w) {
    using T = typename decltype(t)::Type;
    using W = typename decltype(w)::Type;
    return ToStatus(LaunchKernel(ForwardKernel<T, W>, {static_cast<unsigned>(args.x.rows)},
                                 {kBlockThreads}, 0, execution.compute().handle(), args),
                    "rms_norm forward");
  });
}

std::string AcceptsRmsNormBackward(const RmsNormBackwardArgs& args) {
  if (args.dweight.dtype != StatisticsDType(args.r.dtype)) return "a gradient of another precision";
  return Accepts(args.r.dtype, args.weight.dtype, args.inverse_rms.dtype);
}

absl::Status RmsNormBackward(Execution& execution, const RmsNormBackwardArgs& args) {
  const int64_t tokens = args.r.rows, dim = args.r.columns;
  if (tokens == 0 || dim == 0) return absl::OkStatus();
  const int64_t blocks = std::min(tokens, kMaxPartialRows);
  Tensor partial = execution.Empty(StatisticsDType(args.r.dtype), {blocks, dim});
  return Dispatch(args.r.dtype, args.weight.dtype, [&](auto t, auto w) {
    using T = typename decltype(t)::Type;
    using W = typename decltype(w)::Type;
    using A = Accumulator<T>;
    StreamHandle stream = execution.compute().handle();
    PLAIT_RETURN_IF_ERROR(
        ToStatus(LaunchKernel(BackwardKernel<T, W>, {static_cast<unsigned>(blocks)},
                              {kBlockThreads}, 0, stream, args, partial.data<A>()),
                 "rms_norm backward"));
    return ToStatus(LaunchKernel(AddPartialsKernel<A, A>,
                                 {static_cast<unsigned>((dim + kBlockThreads - 1) / kBlockThreads)},
                                 {kBlockThreads}, 0, stream, partial.data<A>(), blocks, dim,
                                 args.dweight.as<A>()),
                    "rms_norm backward");
  });
}

}  // namespace plait::cuda
