#include "kernels/elementwise.h"

#include "kernels/cpu/elementwise.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/reference/elementwise.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<ScaledAddArgs> kScaledAdd[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsScaledAdd, cpu::ScaledAdd},
    {"reference", DeviceKind::kCpu, AcceptsAll<ScaledAddArgs>, reference::ScaledAdd},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsScaledAdd, cuda::ScaledAdd},
};
constexpr Implementation<ColumnSumArgs> kColumnSum[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsColumnSum, cpu::ColumnSum},
    {"reference", DeviceKind::kCpu, AcceptsAll<ColumnSumArgs>, reference::ColumnSum},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsColumnSum, cuda::ColumnSum},
};
constexpr Implementation<RowStatisticsArgs> kRowStatistics[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsRowStatistics, cpu::RowStatistics},
    {"reference", DeviceKind::kCpu, AcceptsAll<RowStatisticsArgs>, reference::RowStatistics},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsRowStatistics, cuda::RowStatistics},
};

}  // namespace

std::span<const Implementation<ScaledAddArgs>> ScaledAddImplementations() { return kScaledAdd; }
std::span<const Implementation<ColumnSumArgs>> ColumnSumImplementations() { return kColumnSum; }
std::span<const Implementation<RowStatisticsArgs>> RowStatisticsImplementations() {
  return kRowStatistics;
}

absl::Status ScaledAdd(Execution& execution, const ScaledAddArgs& args) {
  const int64_t rows = args.out.rows, columns = args.out.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("b", args.b, rows, columns));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("out", args.out, rows, columns));
  if (args.a) {
    PLAIT_RETURN_IF_ERROR(CheckMatrix("a", args.a, rows, columns));
    if (args.a.data == args.out.data)
      PLAIT_RETURN_IF_ERROR(CheckDType("out in the memory of a", args.out.dtype, args.a.dtype));
  }
  if (args.b.data == args.out.data)
    PLAIT_RETURN_IF_ERROR(CheckDType("out in the memory of b", args.out.dtype, args.b.dtype));
  if (args.row_scale) PLAIT_RETURN_IF_ERROR(CheckVector("row_scale", args.row_scale, rows));
  return RunFirstAccepted(execution, "scaled_add", ScaledAddImplementations(), args);
}

absl::Status ColumnSum(Execution& execution, const ColumnSumArgs& args) {
  PLAIT_RETURN_IF_ERROR(CheckMatrix("x", args.x, args.x.rows, args.x.columns));
  PLAIT_RETURN_IF_ERROR(CheckVector("sums", args.sums, args.x.columns));
  return RunFirstAccepted(execution, "column_sum", ColumnSumImplementations(), args);
}

absl::Status RowStatistics(Execution& execution, const RowStatisticsArgs& args) {
  PLAIT_RETURN_IF_ERROR(CheckMatrix("x", args.x, args.x.rows, args.x.columns));
  if (args.square_sum)
    PLAIT_RETURN_IF_ERROR(CheckVector("square_sum", args.square_sum, args.x.rows));
  if (args.absolute_max)
    PLAIT_RETURN_IF_ERROR(CheckVector("absolute_max", args.absolute_max, args.x.rows));
  return RunFirstAccepted(execution, "row_statistics", RowStatisticsImplementations(), args);
}

}  // namespace plait
