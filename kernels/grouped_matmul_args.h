// Matrix products of groups of rows, each with its own weight (the experts of a mixture), without
// padding or copies of rows. Rows of group g are offsets[g] .. offsets[g + 1]; a group may be
// empty. Rows may be gathered: where `row_index` is present, row i of the sorted order is row
// row_index[i] of the matrix it belongs to.
#pragma once

#include <cstdint>

#include "base/view.h"
#include "kernels/matmul_args.h"

namespace plait {

// c[i] = a[row_index ? row_index[i] : i] op(b[g]) for every i in group g.
struct GroupedMatmulArgs {
  ConstMatrixView a;                   // [tokens or rows, k]
  const int32_t* row_index = nullptr;  // [rows]; absent: a's rows are already in sorted order
  const int32_t* offsets = nullptr;    // host, [groups + 1]
  int64_t groups = 0;
  ConstMatrixView b;  // [groups x k, n], or [groups x n, k] if transposed: the groups' weights one
                      // after another
  Transpose transpose_b = Transpose::kNo;
  MatrixView c;  // [rows, n]
};

// c[g] += sum over i in group g of a[i]^T b[row_index ? row_index[i] : i]: gradients of the groups'
// weights.
struct GroupedWeightGradientArgs {
  ConstMatrixView a;                   // [rows, m], in sorted order
  ConstMatrixView b;                   // [tokens or rows, n]
  const int32_t* row_index = nullptr;  // [rows], into b
  const int32_t* offsets = nullptr;    // host, [groups + 1]
  int64_t groups = 0;
  MatrixView c;  // [groups x m, n], f32 or f64, added to; an empty group leaves it as it is
};

}  // namespace plait
