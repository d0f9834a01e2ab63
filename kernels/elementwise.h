// Scaled addition (and cast), column sums, row statistics. Formulas and shapes: elementwise_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/elementwise_args.h"
#include "kernels/implementation.h"

namespace plait {

absl::Status ScaledAdd(Execution& execution, const ScaledAddArgs& args);
absl::Status ColumnSum(Execution& execution, const ColumnSumArgs& args);
absl::Status RowStatistics(Execution& execution, const RowStatisticsArgs& args);

std::span<const Implementation<ScaledAddArgs>> ScaledAddImplementations();
std::span<const Implementation<ColumnSumArgs>> ColumnSumImplementations();
std::span<const Implementation<RowStatisticsArgs>> RowStatisticsImplementations();

}  // namespace plait
