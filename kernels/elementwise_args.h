// Small element-wise operations over matrices; any mix of bf16 and f32 (or all f64), one rounding
// at the output.
#pragma once

#include "base/view.h"

namespace plait {

// out = a + scale * row_scale[row] * b. A missing `a` reads as zeros, a missing row_scale as ones.
// out may be the memory of a or b.
struct ScaledAddArgs {
  ConstMatrixView a;
  ConstMatrixView b;
  double scale = 1;
  ConstVectorView row_scale;  // [rows], f32 or f64
  MatrixView out;
};

// sums[c] += sum over rows of x[r,c], in row order: the gradient of a bias.
struct ColumnSumArgs {
  ConstMatrixView x;
  VectorView sums;  // [columns], f32 or f64
};

// Per row: sum of squares and largest magnitude, in f32 or f64. Either output may be absent.
struct RowStatisticsArgs {
  ConstMatrixView x;
  VectorView square_sum;    // [rows]
  VectorView absolute_max;  // [rows]
};

}  // namespace plait
