// SIMD scaled addition, column sums and row statistics for bf16 and f32.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/elementwise_args.h"

namespace plait::cpu {

std::string AcceptsScaledAdd(const ScaledAddArgs& args);
absl::Status ScaledAdd(Execution& execution, const ScaledAddArgs& args);
std::string AcceptsColumnSum(const ColumnSumArgs& args);
absl::Status ColumnSum(Execution& execution, const ColumnSumArgs& args);
std::string AcceptsRowStatistics(const RowStatisticsArgs& args);
absl::Status RowStatistics(Execution& execution, const RowStatisticsArgs& args);

}  // namespace plait::cpu
