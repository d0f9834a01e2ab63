#include <algorithm>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/library_product.h"
#include "kernels/cuda/matmul.h"

namespace plait::cuda {
namespace {

constexpr int kBlockThreads = 256;
// Columns that one block takes of one row.
constexpr int64_t kBlockColumns = 1024;

// Block b: row b / chunks, columns from (b % chunks) x 1024 on.
struct RowChunk {
  int64_t row, begin, end;
};
__device__ __forceinline__ RowChunk ThisChunk(int64_t columns) {
  const int64_t chunks = (columns + kBlockColumns - 1) / kBlockColumns;
  const int64_t row = blockIdx.x / chunks, begin = blockIdx.x % chunks * kBlockColumns;
  return {row, begin, begin + kBlockColumns < columns ? begin + kBlockColumns : columns};
}
unsigned NumChunks(int64_t rows, int64_t columns) {
  return static_cast<unsigned>(rows * ((columns + kBlockColumns - 1) / kBlockColumns));
}

template <class From, class To>
__global__ void __launch_bounds__(kBlockThreads) WidenKernel(ConstMatrixView from, MatrixView to) {
  const RowChunk chunk = ThisChunk(to.columns);
  for (int64_t i = chunk.begin + threadIdx.x; i < chunk.end; i += kBlockThreads) {
    to.row<To>(chunk.row)[i] = static_cast<To>(Load(from.row<From>(chunk.row)[i]));
  }
}

// c = sums + bias, or c += sums. Absent sums and an absent bias: zeros. sums may be c.
template <class Sum, class Bias, class C>
__global__ void __launch_bounds__(kBlockThreads)
    FinishKernel(ConstMatrixView sums, ConstVectorView bias, Accumulate accumulate, MatrixView c) {
  const RowChunk chunk = ThisChunk(c.columns);
  for (int64_t i = chunk.begin + threadIdx.x; i < chunk.end; i += kBlockThreads) {
    C& element = c.row<C>(chunk.row)[i];
    Sum sum = sums ? sums.row<Sum>(chunk.row)[i] : Sum{0};
    if (bias) sum += static_cast<Sum>(Load(bias.as<Bias>()[i]));
    if (accumulate == Accumulate::kYes) {
      // f32 or f64: the sum in the wider of both.
      element = static_cast<C>(Load(element) + sum);
    } else {
      element = Round<C>(sum);
    }
  }
}

// Row strides of scratch are whole vectors of 16 bytes, which the library multiplies faster.
int64_t ScratchStride(int64_t columns) { return (columns + 7) / 8 * 8; }

Tensor Scratch(Execution& execution, DType dtype, int64_t rows, int64_t columns) {
  return execution.Empty(dtype, {rows, ScratchStride(columns)});
}

// `view` itself, or a copy in `dtype` that `scratch` holds.
absl::StatusOr<ConstMatrixView> Widened(Execution& execution, const ConstMatrixView& view,
                                        DType dtype, Tensor& scratch) {
  if (view.dtype == dtype) return view;
  scratch = Scratch(execution, dtype, view.rows, view.columns);
  const MatrixView to = scratch.columns(0, view.columns);
  PLAIT_RETURN_IF_ERROR(DispatchFloating(view.dtype, [&](auto from_tag) {
    return DispatchWide(dtype, [&](auto to_tag) {
      using From = typename decltype(from_tag)::Type;
      using To = typename decltype(to_tag)::Type;
      return ToStatus(LaunchKernel(WidenKernel<From, To>, {NumChunks(view.rows, view.columns)},
                                   {kBlockThreads}, 0, execution.compute().handle(), view, to),
                      "matmul, widening an operand");
    });
  }));
  return ConstMatrixView(to);
}

// sums: absent, or of dtype `sum`.
absl::Status Finish(Execution& execution, const ConstMatrixView& sums, DType sum,
                    const MatmulArgs& args) {
  return DispatchWide(sum, [&](auto sum_tag) {
    return DispatchFloating(args.bias ? args.bias.dtype : args.c.dtype, [&](auto bias_tag) {
      return DispatchFloating(args.c.dtype, [&](auto c_tag) {
        using Sum = typename decltype(sum_tag)::Type;
        using Bias = typename decltype(bias_tag)::Type;
        using C = typename decltype(c_tag)::Type;
        return ToStatus(
            LaunchKernel(FinishKernel<Sum, Bias, C>, {NumChunks(args.c.rows, args.c.columns)},
                         {kBlockThreads}, 0, execution.compute().handle(), sums, args.bias,
                         args.accumulate, args.c),
            "matmul, finishing");
      });
    });
  });
}

// The dtype of both operands and of the sum of their products.
DType OperandDType(DType a, DType b, DType c) {
  const auto any = [&](DType dtype) { return a == dtype || b == dtype; };
  if (any(DType::kF64) || c == DType::kF64) return DType::kF64;
  return any(DType::kF32) ? DType::kF32 : DType::kBf16;
}

// Whether c is not the library's: its sums go to scratch first.
bool FinishesFromScratch(DType operand, DType c, bool has_bias) {
  return !HasLibraryProduct(operand, c) || (has_bias && c == DType::kBf16);
}

}  // namespace

std::string AcceptsMatmul(const MatmulArgs& args) {
  for (const DType dtype :
       {args.a.dtype, args.b.dtype, args.c.dtype, args.bias ? args.bias.dtype : args.c.dtype}) {
    if (!IsFloating(dtype)) return Name(dtype);
  }
  return "";
}

absl::Status Matmul(Execution& execution, const MatmulArgs& args) {
  if (args.c.rows == 0 || args.c.columns == 0) return absl::OkStatus();
  const DType operand = OperandDType(args.a.dtype, args.b.dtype, args.c.dtype);
  const DType sum = StatisticsDType(operand);
  const int64_t k = args.transpose_a == Transpose::kYes ? args.a.rows : args.a.columns;
  if (k == 0) {
    if (args.accumulate == Accumulate::kYes) return absl::OkStatus();
    return Finish(execution, {}, sum, args);
  }
  MatmulArgs product = args;
  product.bias = {};
  Tensor wide_a, wide_b, sums;
  PLAIT_ASSIGN_OR_RETURN(product.a, Widened(execution, args.a, operand, wide_a));
  PLAIT_ASSIGN_OR_RETURN(product.b, Widened(execution, args.b, operand, wide_b));
  if (FinishesFromScratch(operand, args.c.dtype, static_cast<bool>(args.bias))) {
    sums = Scratch(execution, sum, args.c.rows, args.c.columns);
    product.c = sums.columns(0, args.c.columns);
    product.accumulate = Accumulate::kNo;
  }
  PLAIT_RETURN_IF_ERROR(LibraryProduct(execution, product));
  if (!sums && !args.bias) return absl::OkStatus();
  return Finish(execution, product.c, sum, args);
}

KernelScratch::Blocks MatmulScratch(const MatmulScratchShape& shape) {
  if (shape.m == 0 || shape.n == 0 || shape.k == 0) return {};
  const DType operand = OperandDType(shape.a, shape.b, shape.c);
  KernelScratch::Blocks blocks;
  const auto take = [&blocks](DType dtype, int64_t rows, int64_t columns) {
    blocks.push_back(rows * ScratchStride(columns) * static_cast<int64_t>(SizeOf(dtype)));
  };
  if (shape.a != operand) take(operand, shape.m, shape.k);
  if (shape.b != operand) take(operand, shape.k, shape.n);
  if (FinishesFromScratch(operand, shape.c, shape.has_bias)) {
    take(StatisticsDType(operand), shape.m, shape.n);
  }
  return blocks;
}

}  // namespace plait::cuda
