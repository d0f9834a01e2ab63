#include "kernels/grouped_matmul.h"

#include "kernels/cpu/matmul.h"
#include "kernels/cpu/onednn_grouped_matmul.h"
#include "kernels/cuda/cutlass_grouped_matmul.h"
#include "kernels/cuda/grouped_matmul.h"
#include "kernels/cuda/library_grouped_matmul.h"
#include "kernels/reference/grouped_matmul.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<GroupedMatmulArgs> kMatmul[] = {
    {"onednn bf16", DeviceKind::kCpu, cpu::AcceptsOnednnBf16GroupedMatmul,
     cpu::OnednnGroupedMatmul},
    {"simd", DeviceKind::kCpu, cpu::AcceptsGroupedMatmul, cpu::GroupedMatmul},
    // Behind simd: below AVX-512 its rows depend on their neighbours.
    {"onednn f32", DeviceKind::kCpu, cpu::AcceptsOnednnF32GroupedMatmul, cpu::OnednnGroupedMatmul},
    {"reference", DeviceKind::kCpu, AcceptsAll<GroupedMatmulArgs>, reference::GroupedMatmul},
    {"cuda library", DeviceKind::kCuda, cuda::AcceptsLibraryGroupedMatmul,
     cuda::LibraryGroupedMatmul},
    {"cutlass", DeviceKind::kCuda, cuda::AcceptsCutlassGroupedMatmul, cuda::CutlassGroupedMatmul},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsGroupedMatmul, cuda::GroupedMatmul},
};
constexpr Implementation<GroupedWeightGradientArgs> kWeightGradient[] = {
    {"onednn bf16", DeviceKind::kCpu, cpu::AcceptsOnednnBf16GroupedWeightGradient,
     cpu::OnednnGroupedWeightGradient},
    {"simd", DeviceKind::kCpu, cpu::AcceptsGroupedWeightGradient, cpu::GroupedWeightGradient},
    // Behind simd: below AVX-512 its rows depend on their neighbours.
    {"onednn f32", DeviceKind::kCpu, cpu::AcceptsOnednnF32GroupedWeightGradient,
     cpu::OnednnGroupedWeightGradient},
    {"reference", DeviceKind::kCpu, AcceptsAll<GroupedWeightGradientArgs>,
     reference::GroupedWeightGradient},
    {"cuda library", DeviceKind::kCuda, cuda::AcceptsLibraryGroupedWeightGradient,
     cuda::LibraryGroupedWeightGradient},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsGroupedWeightGradient, cuda::GroupedWeightGradient},
};

// offsets: [groups + 1] from 0 to `rows`, not falling.
absl::Status CheckOffsets(const int32_t* offsets, int64_t groups, int64_t rows) {
  if (groups < 1 || offsets == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("offsets: expected at least one group, got ", groups));
  }
  for (int64_t g = 0; g <= groups; ++g) {
    const int64_t least = g == 0 ? 0 : offsets[g - 1];
    if (offsets[g] < least || (g == 0 && offsets[g] != 0)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "offsets[", g, "]: expected ", g == 0 ? "" : "at least ", least, ", got ", offsets[g]));
    }
  }
  if (offsets[groups] != rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("offsets[", groups, "]: expected ", rows, " rows, got ", offsets[groups]));
  }
  return absl::OkStatus();
}

// row_index: [rows], each a row of a matrix with `source_rows`.
absl::Status CheckRowIndex(const Execution& execution, const int32_t* row_index, int64_t rows,
                           int64_t source_rows) {
  if (execution.device().kind != DeviceKind::kCpu) return absl::OkStatus();
  for (int64_t i = 0; i < rows; ++i) {
    if (row_index[i] < 0 || row_index[i] >= source_rows) {
      return absl::InvalidArgumentError(absl::StrCat("row_index[", i, "]: expected a row below ",
                                                     source_rows, ", got ", row_index[i]));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::span<const Implementation<GroupedMatmulArgs>> GroupedMatmulImplementations() {
  return kMatmul;
}
std::span<const Implementation<GroupedWeightGradientArgs>> GroupedWeightGradientImplementations() {
  return kWeightGradient;
}

absl::Status GroupedMatmul(Execution& execution, const GroupedMatmulArgs& args) {
  const bool transposed = args.transpose_b == Transpose::kYes;
  const int64_t rows = args.c.rows, n = args.c.columns, k = args.a.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("c", args.c, rows, n));
  PLAIT_RETURN_IF_ERROR(CheckOffsets(args.offsets, args.groups, rows));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("a", args.a, args.row_index ? args.a.rows : rows, k));
  PLAIT_RETURN_IF_ERROR(
      CheckMatrix("b", args.b, args.groups * (transposed ? n : k), transposed ? k : n));
  if (args.row_index != nullptr) {
    PLAIT_RETURN_IF_ERROR(CheckRowIndex(execution, args.row_index, rows, args.a.rows));
  }
  if (rows == 0 || n == 0) return absl::OkStatus();
  return RunFirstAccepted(execution, "grouped_matmul", GroupedMatmulImplementations(), args);
}

absl::Status GroupedWeightGradient(Execution& execution, const GroupedWeightGradientArgs& args) {
  const int64_t rows = args.a.rows, m = args.a.columns, n = args.b.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("a", args.a, rows, m));
  PLAIT_RETURN_IF_ERROR(CheckOffsets(args.offsets, args.groups, rows));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("b", args.b, args.row_index ? args.b.rows : rows, n));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("c", args.c, args.groups * m, n));
  if (args.c.dtype == DType::kBf16) {
    return absl::InvalidArgumentError("c: accumulation needs f32 or f64, got bf16");
  }
  if (args.row_index != nullptr) {
    PLAIT_RETURN_IF_ERROR(CheckRowIndex(execution, args.row_index, rows, args.b.rows));
  }
  if (rows == 0 || m == 0 || n == 0) return absl::OkStatus();
  return RunFirstAccepted(execution, "grouped_weight_gradient",
                          GroupedWeightGradientImplementations(), args);
}

}  // namespace plait
