// Reference matrix product: operands widened to double, sums in double, in order of k.
#pragma once

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/matmul_args.h"
#include "kernels/reference/element.h"

namespace plait::reference {

// op(view) as contiguous doubles.
inline std::vector<double> Widened(const ConstMatrixView& view, Transpose transpose) {
  std::vector<double> values(static_cast<size_t>(view.rows * view.columns));
  for (int64_t r = 0; r < view.rows; ++r) {
    for (int64_t c = 0; c < view.columns; ++c) {
      const int64_t to = transpose == Transpose::kNo ? r * view.columns + c : c * view.rows + r;
      values[static_cast<size_t>(to)] = Get(view, r, c);
    }
  }
  return values;
}

// c[row] (+)= a b + bias. a: [k], b: [k, n] contiguous, n = c.columns.
inline void MultiplyRow(const double* a, const double* b, int64_t k, const ConstVectorView& bias,
                        Accumulate accumulate, const MatrixView& c, int64_t row) {
  const int64_t n = c.columns;
  std::vector<double> sums(static_cast<size_t>(n), 0.0);
  for (int64_t p = 0; p < k; ++p) {
    for (int64_t j = 0; j < n; ++j) sums[static_cast<size_t>(j)] += a[p] * b[p * n + j];
  }
  for (int64_t j = 0; j < n; ++j) {
    double sum = sums[static_cast<size_t>(j)];
    if (bias) sum += Get(bias, j);
    if (accumulate == Accumulate::kYes) sum += Get(c, row, j);
    Set(c, row, j, sum);
  }
}

inline absl::Status Matmul(Execution&, const MatmulArgs& args) {
  const std::vector<double> a = Widened(args.a, args.transpose_a);
  const std::vector<double> b = Widened(args.b, args.transpose_b);
  const int64_t k = args.transpose_a == Transpose::kNo ? args.a.columns : args.a.rows;
  for (int64_t i = 0; i < args.c.rows; ++i) {
    MultiplyRow(a.data() + i * k, b.data(), k, args.bias, args.accumulate, args.c, i);
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
