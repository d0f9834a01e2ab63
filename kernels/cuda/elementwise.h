// Scaled addition, column sums and row statistics on a CUDA device, for bf16, f32 and f64. Column
// sums are shared out in stretches of rows whose length depends on the shape alone; their partial
// sums are added in order.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/elementwise_args.h"
#include "kernels/scratch.h"

namespace plait::cuda {

std::string AcceptsScaledAdd(const ScaledAddArgs& args);
absl::Status ScaledAdd(Execution& execution, const ScaledAddArgs& args);
std::string AcceptsColumnSum(const ColumnSumArgs& args);
absl::Status ColumnSum(Execution& execution, const ColumnSumArgs& args);
// Of rows that are aligned to 16 bytes; others take less.
KernelScratch::Blocks ColumnSumScratch(DType dtype, int64_t rows, int64_t columns);
std::string AcceptsRowStatistics(const RowStatisticsArgs& args);
absl::Status RowStatistics(Execution& execution, const RowStatisticsArgs& args);

}  // namespace plait::cuda
