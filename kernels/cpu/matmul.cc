#include "kernels/cpu/matmul.h"

#include <initializer_list>
#include <vector>

#include "kernels/cpu/gemm.h"

namespace plait::cpu {
namespace {

std::string RefusesOtherThanBf16AndF32(std::initializer_list<DType> dtypes) {
  for (const DType dtype : dtypes) {
    if (dtype != DType::kBf16 && dtype != DType::kF32) return Name(dtype);
  }
  return "";
}

GemmOperand Operand(const ConstMatrixView& view, Transpose transpose) {
  return {.data = view.data,
          .dtype = view.dtype,
          .row_stride = view.row_stride,
          .transpose = transpose};
}

// Row r of the operand is row `row + r` of the view, or row_index[row + r] where that is given.
GemmOperand OperandFromRow(const ConstMatrixView& view, Transpose transpose, int64_t row,
                           const int32_t* row_index) {
  GemmOperand operand = Operand(view, transpose);
  if (row_index != nullptr) {
    operand.row_index = row_index + row;
  } else {
    const auto element = static_cast<int64_t>(SizeOf(view.dtype));
    operand.data = static_cast<const char*>(view.data) + row * view.row_stride * element;
  }
  return operand;
}

MatrixView RowRange(const MatrixView& view, int64_t begin, int64_t rows) {
  const auto element = static_cast<int64_t>(SizeOf(view.dtype));
  return {static_cast<char*>(view.data) + begin * view.row_stride * element, view.dtype, rows,
          view.columns, view.row_stride};
}

}  // namespace

std::string AcceptsMatmul(const MatmulArgs& args) {
  return RefusesOtherThanBf16AndF32(
      {args.a.dtype, args.b.dtype, args.c.dtype, args.bias ? args.bias.dtype : DType::kF32});
}

absl::Status Matmul(Execution& execution, const MatmulArgs& args) {
  const GemmProblem problem{.m = args.c.rows,
                            .n = args.c.columns,
                            .k = args.transpose_a == Transpose::kNo ? args.a.columns : args.a.rows,
                            .a = Operand(args.a, args.transpose_a),
                            .b = Operand(args.b, args.transpose_b),
                            .c = args.c,
                            .bias = args.bias,
                            .accumulate = args.accumulate};
  Gemm(execution, {&problem, 1});
  return absl::OkStatus();
}

std::string AcceptsGroupedMatmul(const GroupedMatmulArgs& args) {
  return RefusesOtherThanBf16AndF32({args.a.dtype, args.b.dtype, args.c.dtype});
}

absl::Status GroupedMatmul(Execution& execution, const GroupedMatmulArgs& args) {
  std::vector<GemmProblem> problems;
  const int64_t rows_of_b = args.b.rows / args.groups;
  for (int64_t g = 0; g < args.groups; ++g) {
    const int64_t begin = args.offsets[g], rows = args.offsets[g + 1] - begin;
    if (rows == 0) continue;
    problems.push_back(
        {.m = rows,
         .n = args.c.columns,
         .k = args.a.columns,
         .a = OperandFromRow(args.a, Transpose::kNo, begin, args.row_index),
         .b = OperandFromRow(args.b, args.transpose_b, g * rows_of_b, /*row_index=*/nullptr),
         .c = RowRange(args.c, begin, rows)});
  }
  Gemm(execution, problems);
  return absl::OkStatus();
}

std::string AcceptsGroupedWeightGradient(const GroupedWeightGradientArgs& args) {
  return RefusesOtherThanBf16AndF32({args.a.dtype, args.b.dtype, args.c.dtype});
}

absl::Status GroupedWeightGradient(Execution& execution, const GroupedWeightGradientArgs& args) {
  std::vector<GemmProblem> problems;
  const int64_t m = args.a.columns;
  for (int64_t g = 0; g < args.groups; ++g) {
    const int64_t begin = args.offsets[g], rows = args.offsets[g + 1] - begin;
    if (rows == 0) continue;
    problems.push_back({.m = m,
                        .n = args.b.columns,
                        .k = rows,
                        .a = OperandFromRow(args.a, Transpose::kYes, begin, /*row_index=*/nullptr),
                        .b = OperandFromRow(args.b, Transpose::kNo, begin, args.row_index),
                        .c = RowRange(args.c, g * m, m),
                        .accumulate = Accumulate::kYes});
  }
  Gemm(execution, problems);
  return absl::OkStatus();
}

}  // namespace plait::cpu
