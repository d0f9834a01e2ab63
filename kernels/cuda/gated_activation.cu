#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/gated_activation.h"
#include "kernels/cuda/logistic.h"
#include "kernels/cuda/row_threads.h"
#include "kernels/cuda/vector_access.h"

namespace plait::cuda {
namespace {

template <class A>
__device__ __forceinline__ A WeightOf(const ConstVectorView& row_weight, int64_t row) {
  return row_weight ? row_weight.as<A>()[row] : A{1};
}

template <class T, int kVector>
__global__ void __launch_bounds__(kRowBlockThreads)
    ForwardKernel(GatedActivationForwardArgs args, unsigned column_blocks) {
  using A = Accumulator<T>;
  const MatrixPlace place(column_blocks);
  const int64_t d = place.vector * kVector, count = args.gate.columns - d;
  if (place.row >= args.gate.rows || count <= 0) return;
  T gate[kVector], up[kVector], out[kVector];
  LoadVector(args.gate.row<T>(place.row) + d, count, gate);
  LoadVector(args.up.row<T>(place.row) + d, count, up);
  const A weight = WeightOf<A>(args.row_weight, place.row);
  PLAIT_UNROLL
  for (int i = 0; i < kVector; ++i) {
    const A g = Load(gate[i]);
    out[i] = Round<T>(weight * g * Logistic(g) * Load(up[i]));
  }
  StoreVector(out, count, args.out.row<T>(place.row) + d);
}

// Elements [d, d + count) of a row. Returns their part of drow_weight.
template <class T, int kVector>
__device__ __forceinline__ Accumulator<T> BackwardVector(const GatedActivationBackwardArgs& args,
                                                         int64_t row, int64_t d,
                                                         Accumulator<T> weight) {
  using A = Accumulator<T>;
  const int64_t count = args.gate.columns - d;
  T gate[kVector], up[kVector], dout[kVector], dgate[kVector], dup[kVector];
  LoadVector(args.gate.row<T>(row) + d, count, gate);
  LoadVector(args.up.row<T>(row) + d, count, up);
  LoadVector(args.dout.row<T>(row) + d, count, dout);
  A dweight = 0;
  PLAIT_UNROLL
  for (int i = 0; i < kVector; ++i) {
    const A g = Load(gate[i]), u = Load(up[i]), dy = Load(dout[i]);
    const A sigmoid = Logistic(g), silu = g * sigmoid, slope = SiluSlope(g, sigmoid);
    dweight += dy * silu * u;
    dgate[i] = Round<T>(weight * dy * u * slope);
    dup[i] = Round<T>(weight * dy * silu);
  }
  StoreVector(dgate, count, args.dgate.row<T>(row) + d);
  StoreVector(dup, count, args.dup.row<T>(row) + d);
  return dweight;
}

template <class T, int kVector>
__global__ void __launch_bounds__(kRowBlockThreads)
    BackwardKernel(GatedActivationBackwardArgs args, unsigned column_blocks) {
  const MatrixPlace place(column_blocks);
  if (place.row >= args.gate.rows || place.vector * kVector >= args.gate.columns) return;
  BackwardVector<T, kVector>(args, place.row, place.vector * kVector,
                             WeightOf<Accumulator<T>>(args.row_weight, place.row));
}

template <class T, int kVector>
__global__ void __launch_bounds__(kRowBlockThreads)
    WeightedBackwardKernel(GatedActivationBackwardArgs args) {
  using A = Accumulator<T>;
  const int64_t row = TeamRow();
  if (row >= args.gate.rows) return;
  const A weight = args.row_weight.as<A>()[row];
  A dweight = 0;
  for (int64_t d = int64_t{threadIdx.x} * kVector; d < args.gate.columns;
       d += int64_t{blockDim.x} * kVector) {
    dweight += BackwardVector<T, kVector>(args, row, d, weight);
  }
  dweight = TeamSum(dweight);
  if (threadIdx.x == 0) args.drow_weight.as<A>()[row] = dweight;
}

std::string Accepts(DType dtype, std::initializer_list<DType> matrices,
                    std::initializer_list<ConstVectorView> weights) {
  if (!IsFloating(dtype)) return "dtypes other than bf16, f32 and f64";
  for (const DType other : matrices) {
    if (other != dtype) return "matrices of several dtypes";
  }
  for (const ConstVectorView& weight : weights) {
    if (weight && weight.dtype != StatisticsDType(dtype)) return "row weights of another precision";
  }
  return "";
}

}  // namespace

std::string AcceptsGatedActivationForward(const GatedActivationForwardArgs& args) {
  return Accepts(args.gate.dtype, {args.up.dtype, args.out.dtype}, {args.row_weight});
}

absl::Status GatedActivationForward(Execution& execution, const GatedActivationForwardArgs& args) {
  return DispatchFloating(args.gate.dtype, [&](auto t) {
    using T = typename decltype(t)::Type;
    constexpr int kVector = kVectorElements<T>;
    const bool aligned = IsAligned(args.gate, kVector) && IsAligned(args.up, kVector) &&
                         IsAligned(args.out, kVector);
    return DispatchVector<kVector>(aligned, [&](auto count) {
      constexpr int kCount = decltype(count)::value;
      const MatrixTiling tiling(args.gate.rows, (args.gate.columns + kCount - 1) / kCount);
      return ToStatus(LaunchKernel(ForwardKernel<T, kCount>, {tiling.blocks},
                                   {tiling.threads_x, tiling.threads_y}, 0,
                                   execution.compute().handle(), args, tiling.column_blocks),
                      "gated_activation forward");
    });
  });
}

std::string AcceptsGatedActivationBackward(const GatedActivationBackwardArgs& args) {
  return Accepts(args.gate.dtype,
                 {args.up.dtype, args.dout.dtype, args.dgate.dtype, args.dup.dtype},
                 {args.row_weight, args.drow_weight});
}

absl::Status GatedActivationBackward(Execution& execution,
                                     const GatedActivationBackwardArgs& args) {
  return DispatchFloating(args.gate.dtype, [&](auto t) {
    using T = typename decltype(t)::Type;
    constexpr int kVector = kVectorElements<T>;
    const bool aligned = IsAligned(args.gate, kVector) && IsAligned(args.up, kVector) &&
                         IsAligned(args.dout, kVector) && IsAligned(args.dgate, kVector) &&
                         IsAligned(args.dup, kVector);
    return DispatchVector<kVector>(aligned, [&](auto count) {
      constexpr int kCount = decltype(count)::value;
      const int64_t rows = args.gate.rows, vectors = (args.gate.columns + kCount - 1) / kCount;
      StreamHandle stream = execution.compute().handle();
      if (args.drow_weight) {
        const RowTeams teams(rows, vectors);
        return ToStatus(LaunchKernel(WeightedBackwardKernel<T, kCount>, {teams.blocks},
                                     {teams.threads_x, teams.threads_y}, 0, stream, args),
                        "gated_activation backward");
      }
      const MatrixTiling tiling(rows, vectors);
      return ToStatus(
          LaunchKernel(BackwardKernel<T, kCount>, {tiling.blocks},
                       {tiling.threads_x, tiling.threads_y}, 0, stream, args, tiling.column_blocks),
          "gated_activation backward");
    });
  });
}

}  // namespace plait::cuda
