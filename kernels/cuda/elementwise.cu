#include <algorithm>

#include "base/status_macros.h"
#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/row_threads.h"
#include "kernels/cuda/vector_access.h"

namespace plait::cuda {
namespace {

__device__ __forceinline__ double RowScale(const ConstVectorView& row_scale, int64_t row) {
  if (!row_scale) return 1;
  return row_scale.dtype == DType::kF64 ? row_scale.as<double>()[row]
                                        : static_cast<double>(row_scale.as<float>()[row]);
}

// A, B, Out: element types of a (or any where it is absent), b and out.
template <class A, class B, class Out, int kVector>
__global__ void __launch_bounds__(kRowBlockThreads)
    ScaledAddKernel(ScaledAddArgs args, unsigned column_blocks) {
  using Sum = Accumulator<B>;
  const MatrixPlace place(column_blocks);
  const int64_t c = place.vector * kVector, count = args.out.columns - c;
  if (place.row >= args.out.rows || count <= 0) return;
  const Sum scale = static_cast<Sum>(args.scale * RowScale(args.row_scale, place.row));
  B b[kVector];
  Out out[kVector];
  LoadVector(args.b.row<B>(place.row) + c, count, b);
  if (args.a) {
    A a[kVector];
    LoadVector(args.a.row<A>(place.row) + c, count, a);
    PLAIT_UNROLL
    for (int i = 0; i < kVector; ++i) {
      const Sum addend = Load(a[i]), factor = Load(b[i]);
      out[i] = Round<Out>(MultiplyAdd(factor, scale, addend));
    }
  } else {
    PLAIT_UNROLL
    for (int i = 0; i < kVector; ++i) out[i] = Round<Out>(scale * Load(b[i]));
  }
  StoreVector(out, count, args.out.row<Out>(place.row) + c);
}

// A matrix without gaps is one row.
bool IsContiguous(const ConstMatrixView& view) {
  return !view || view.rows <= 1 || view.row_stride == view.columns;
}
ScaledAddArgs Flattened(ScaledAddArgs args) {
  if (args.row_scale || !IsContiguous(args.a) || !IsContiguous(args.b) || !IsContiguous(args.out)) {
    return args;
  }
  const int64_t elements = args.out.rows * args.out.columns;
  args.b = ConstMatrixView(args.b.data, args.b.dtype, 1, elements, elements);
  args.out = MatrixView{args.out.data, args.out.dtype, 1, elements, elements};
  if (args.a) args.a = ConstMatrixView(args.a.data, args.a.dtype, 1, elements, elements);
  return args;
}

template <class A, class B, class Out>
absl::Status LaunchScaledAdd(Execution& execution, const ScaledAddArgs& args) {
  constexpr int kVector = kVectorElements<A, B, Out>;
  const bool aligned =
      IsAligned(args.a, kVector) && IsAligned(args.b, kVector) && IsAligned(args.out, kVector);
  return DispatchVector<kVector>(aligned, [&](auto count) {
    constexpr int kCount = decltype(count)::value;
    const MatrixTiling tiling(args.out.rows, (args.out.columns + kCount - 1) / kCount);
    return ToStatus(LaunchKernel(ScaledAddKernel<A, B, Out, kCount>, {tiling.blocks},
                                 {tiling.threads_x, tiling.threads_y}, 0,
                                 execution.compute().handle(), args, tiling.column_blocks),
                    "scaled_add");
  });
}

// body(TypeTag<T>) for bf16 and f32.
template <class Body>
auto DispatchNarrow(DType dtype, Body&& body) {
  if (dtype == DType::kBf16) return body(TypeTag<BFloat16>());
  return body(TypeTag<float>());
}

// A block's columns, a vector a thread along x, and how many blocks there should be at least before
// stretches of rows grow beyond kMinRows.
constexpr int kColumnThreads = 32;
constexpr int kRowThreads = 8;
constexpr int64_t kMinRows = 64;
constexpr int64_t kColumnSumBlocks = 528;

// Rows are shared out in stretches of equal length.
struct Stretches {
  Stretches(int64_t row_count, int64_t column_blocks) {
    const int64_t wanted = std::max<int64_t>(1, kColumnSumBlocks / column_blocks);
    rows = std::max(kMinRows, (row_count + wanted - 1) / wanted);
    count = (row_count + rows - 1) / rows;
  }
  int64_t rows, count;
};

// Block (column block, stretch): partial[stretch, columns of the block]. Threads along y share the
// stretch's rows out, and their sums are joined in order.
template <class T, int kVector>
__global__ void __launch_bounds__(kColumnThreads* kRowThreads)
    ColumnSumKernel(ConstMatrixView x, int64_t stretch, unsigned column_blocks,
                    Accumulator<T>* partial) {
  using A = Accumulator<T>;
  PLAIT_SHARED(A, sums, kRowThreads * kColumnThreads * kVector);
  const unsigned column_block = blockIdx.x % column_blocks, part = blockIdx.x / column_blocks;
  const int lane = static_cast<int>(threadIdx.x), team = static_cast<int>(threadIdx.y);
  const int64_t c = (int64_t{column_block} * kColumnThreads + lane) * kVector;
  const int64_t count = x.columns - c;
  const int64_t begin = part * stretch, end = begin + stretch < x.rows ? begin + stretch : x.rows;
  A own[kVector] = {};
  if (count > 0) {
    for (int64_t row = begin + team; row < end; row += kRowThreads) {
      T values[kVector];
      LoadVector(x.row<T>(row) + c, count, values);
      PLAIT_UNROLL
      for (int i = 0; i < kVector; ++i) own[i] += Load(values[i]);
    }
  }
  // Element i of a lane at [i, lane]: neighbouring lanes, neighbouring banks.
  PLAIT_UNROLL
  for (int i = 0; i < kVector; ++i) sums[(team * kVector + i) * kColumnThreads + lane] = own[i];
  __syncthreads();
  if (team > 0 || count <= 0) return;
  for (int other = 1; other < kRowThreads; ++other) {
    PLAIT_UNROLL
    for (int i = 0; i < kVector; ++i) own[i] += sums[(other * kVector + i) * kColumnThreads + lane];
  }
  PLAIT_UNROLL
  for (int i = 0; i < kVector; ++i) {
    if (i < count) partial[part * x.columns + c + i] = own[i];
  }
}

template <class T, int kVector>
__global__ void __launch_bounds__(kRowBlockThreads) RowStatisticsKernel(RowStatisticsArgs args) {
  using A = Accumulator<T>;
  const int64_t row = TeamRow();
  if (row >= args.x.rows) return;
  A square_sum = 0, largest = 0;
  for (int64_t c = int64_t{threadIdx.x} * kVector; c < args.x.columns;
       c += int64_t{blockDim.x} * kVector) {
    T values[kVector];
    LoadVector(args.x.row<T>(row) + c, args.x.columns - c, values);
    PLAIT_UNROLL
    for (int i = 0; i < kVector; ++i) {
      const A value = Load(values[i]), magnitude = Magnitude(value);
      square_sum += value * value;
      largest = magnitude > largest ? magnitude : largest;
    }
  }
  square_sum = TeamSum(square_sum);
  largest = TeamMax(largest);
  if (threadIdx.x > 0) return;
  if (args.square_sum) args.square_sum.as<A>()[row] = square_sum;
  if (args.absolute_max) args.absolute_max.as<A>()[row] = largest;
}

}  // namespace

std::string AcceptsScaledAdd(const ScaledAddArgs& args) {
  const DType a = args.a ? args.a.dtype : args.b.dtype;
  for (const DType dtype : {a, args.b.dtype, args.out.dtype}) {
    if (!IsFloating(dtype)) return "dtypes other than bf16, f32 and f64";
    if ((dtype == DType::kF64) != (args.b.dtype == DType::kF64)) return "f64 beside other dtypes";
  }
  if (args.row_scale && args.row_scale.dtype == DType::kBf16) return "row_scale is bf16";
  return "";
}

absl::Status ScaledAdd(Execution& execution, const ScaledAddArgs& all) {
  const ScaledAddArgs args = Flattened(all);
  if (args.out.dtype == DType::kF64) {
    return LaunchScaledAdd<double, double, double>(execution, args);
  }
  return DispatchNarrow(args.b.dtype, [&](auto b) {
    return DispatchNarrow(args.out.dtype, [&](auto out) {
      using B = typename decltype(b)::Type;
      using Out = typename decltype(out)::Type;
      return DispatchNarrow(args.a ? args.a.dtype : args.b.dtype, [&](auto a) {
        return LaunchScaledAdd<typename decltype(a)::Type, B, Out>(execution, args);
      });
    });
  });
}

std::string AcceptsColumnSum(const ColumnSumArgs& args) {
  if (!IsFloating(args.x.dtype)) return "dtypes other than bf16, f32 and f64";
  return args.sums.dtype == StatisticsDType(args.x.dtype) ? "" : "sums of another precision";
}

absl::Status ColumnSum(Execution& execution, const ColumnSumArgs& args) {
  const int64_t rows = args.x.rows, columns = args.x.columns;
  if (rows == 0 || columns == 0) return absl::OkStatus();
  return DispatchFloating(args.x.dtype, [&](auto t) {
    using T = typename decltype(t)::Type;
    using A = Accumulator<T>;
    constexpr int kVector = kVectorElements<T>;
    return DispatchVector<kVector>(IsAligned(args.x, kVector), [&](auto count) -> absl::Status {
      constexpr int kCount = decltype(count)::value;
      constexpr int64_t kBlockColumns = kColumnThreads * kCount;
      const int64_t column_blocks = (columns + kBlockColumns - 1) / kBlockColumns;
      const Stretches stretches(rows, column_blocks);
      const int64_t parts = stretches.count;
      Tensor partial = execution.Empty(DTypeOf<A>::value, {parts, columns});
      PLAIT_RETURN_IF_ERROR(ToStatus(
          LaunchKernel(ColumnSumKernel<T, kCount>, {static_cast<unsigned>(column_blocks * parts)},
                       {kColumnThreads, kRowThreads}, 0, execution.compute().handle(), args.x,
                       stretches.rows, static_cast<unsigned>(column_blocks), partial.data<A>()),
          "column_sum"));
      return AddPartials(execution, partial.data<A>(), parts, columns, args.sums.as<A>(),
                         "column_sum");
    });
  });
}

KernelScratch::Blocks ColumnSumScratch(DType dtype, int64_t rows, int64_t columns) {
  if (rows == 0 || columns == 0) return {};
  return DispatchFloating(dtype, [&](auto t) -> KernelScratch::Blocks {
    using T = typename decltype(t)::Type;
    constexpr int64_t kBlockColumns = int64_t{kColumnThreads} * kVectorElements<T>;
    const Stretches stretches(rows, (columns + kBlockColumns - 1) / kBlockColumns);
    return {stretches.count * columns * static_cast<int64_t>(sizeof(Accumulator<T>))};
  });
}

std::string AcceptsRowStatistics(const RowStatisticsArgs& args) {
  if (!IsFloating(args.x.dtype)) return "dtypes other than bf16, f32 and f64";
  for (const VectorView& view : {args.square_sum, args.absolute_max}) {
    if (view && view.dtype != StatisticsDType(args.x.dtype))
      return "an output of another precision";
  }
  return "";
}

absl::Status RowStatistics(Execution& execution, const RowStatisticsArgs& args) {
  return DispatchFloating(args.x.dtype, [&](auto t) {
    using T = typename decltype(t)::Type;
    constexpr int kVector = kVectorElements<T>;
    return DispatchVector<kVector>(IsAligned(args.x, kVector), [&](auto count) {
      constexpr int kCount = decltype(count)::value;
      const RowTeams teams(args.x.rows, (args.x.columns + kCount - 1) / kCount);
      return ToStatus(
          LaunchKernel(RowStatisticsKernel<T, kCount>, {teams.blocks},
                       {teams.threads_x, teams.threads_y}, 0, execution.compute().handle(), args),
          "row_statistics");
    });
  });
}

}  // namespace plait::cuda
