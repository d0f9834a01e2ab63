// Reference grouped matrix products: one group after another, sums in double.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/grouped_matmul_args.h"
#include "kernels/reference/element.h"
#include "kernels/reference/matmul.h"

namespace plait::reference {

inline ConstMatrixView RowRange(const ConstMatrixView& view, int64_t begin, int64_t rows) {
  const auto* data = static_cast<const char*>(view.data);
  const auto skipped = begin * view.row_stride * static_cast<int64_t>(SizeOf(view.dtype));
  return {data + skipped, view.dtype, rows, view.columns, view.row_stride};
}

inline absl::Status GroupedMatmul(Execution&, const GroupedMatmulArgs& args) {
  const int64_t k = args.a.columns;
  const std::vector<double> a = Widened(args.a, Transpose::kNo);
  for (int64_t g = 0; g < args.groups; ++g) {
    if (args.offsets[g] == args.offsets[g + 1]) continue;
    const int64_t rows = args.b.rows / args.groups;
    const std::vector<double> b = Widened(RowRange(args.b, g * rows, rows), args.transpose_b);
    for (int64_t i = args.offsets[g]; i < args.offsets[g + 1]; ++i) {
      const int64_t source = args.row_index != nullptr ? args.row_index[i] : i;
      MultiplyRow(a.data() + source * k, b.data(), k, {}, Accumulate::kNo, args.c, i);
    }
  }
  return absl::OkStatus();
}

inline absl::Status GroupedWeightGradient(Execution&, const GroupedWeightGradientArgs& args) {
  const int64_t m = args.a.columns, n = args.b.columns;
  const std::vector<double> a = Widened(args.a, Transpose::kNo);
  const std::vector<double> b = Widened(args.b, Transpose::kNo);
  for (int64_t g = 0; g < args.groups; ++g) {
    if (args.offsets[g] == args.offsets[g + 1]) continue;
    std::vector<double> sums(static_cast<size_t>(m * n), 0.0);
    for (int64_t i = args.offsets[g]; i < args.offsets[g + 1]; ++i) {
      const int64_t source = args.row_index != nullptr ? args.row_index[i] : i;
      for (int64_t r = 0; r < m; ++r) {
        const double factor = a[static_cast<size_t>(i * m + r)];
        double* row = sums.data() + r * n;
        for (int64_t j = 0; j < n; ++j) row[j] += factor * b[static_cast<size_t>(source * n + j)];
      }
    }
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t j = 0; j < n; ++j) {
        Add(args.c, g * m + r, j, sums[static_cast<size_t>(r * n + j)]);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
