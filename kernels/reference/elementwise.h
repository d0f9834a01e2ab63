// Reference scaled addition, column sums and row statistics: plain loops, sums in double.
#pragma once

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/elementwise_args.h"
#include "kernels/reference/element.h"

namespace plait::reference {

inline absl::Status ScaledAdd(Execution&, const ScaledAddArgs& args) {
  for (int64_t r = 0; r < args.b.rows; ++r) {
    const double scale = args.scale * (args.row_scale ? Get(args.row_scale, r) : 1.0);
    for (int64_t c = 0; c < args.b.columns; ++c) {
      const double product = scale * Get(args.b, r, c);
      Set(args.out, r, c, args.a ? Get(args.a, r, c) + product : product);
    }
  }
  return absl::OkStatus();
}

inline absl::Status ColumnSum(Execution&, const ColumnSumArgs& args) {
  for (int64_t c = 0; c < args.x.columns; ++c) {
    double sum = 0;
    for (int64_t r = 0; r < args.x.rows; ++r) sum += Get(args.x, r, c);
    Add(args.sums, c, sum);
  }
  return absl::OkStatus();
}

inline absl::Status RowStatistics(Execution&, const RowStatisticsArgs& args) {
  for (int64_t r = 0; r < args.x.rows; ++r) {
    double square_sum = 0, absolute_max = 0;
    for (int64_t c = 0; c < args.x.columns; ++c) {
      const double x = Get(args.x, r, c);
      square_sum += x * x;
      absolute_max = std::max(absolute_max, std::abs(x));
    }
    if (args.square_sum) Set(args.square_sum, r, square_sum);
    if (args.absolute_max) Set(args.absolute_max, r, absolute_max);
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
