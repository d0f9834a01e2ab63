// Arguments of a matrix product with one bias row: c (+)= op(a) op(b) + bias.
// The inner sum runs in f32 (f64 beside f64) in an order that depends on k alone, not on the rows,
// columns or threads asked for, so that a row's result does not depend on its neighbours. On a CUDA
// device the order is the library's choice for the shape: equal shapes give equal bits.
#pragma once

#include "base/view.h"

namespace plait {

enum class Transpose { kNo, kYes };
enum class Accumulate { kNo, kYes };  // kYes: c is added to (f32 or f64); kNo: overwritten

struct MatmulArgs {
  ConstMatrixView a;  // [m, k], or [k, m] if transposed; bf16, f32 or f64
  ConstMatrixView b;  // [k, n], or [n, k] if transposed (a weight [out, in] in y = x W^T); may
                      // differ from a in dtype
  Transpose transpose_a = Transpose::kNo;
  Transpose transpose_b = Transpose::kNo;
  MatrixView c;          // [m, n]; bf16, f32 or f64
  ConstVectorView bias;  // [n]; absent: none. With Accumulate::kYes it must be absent
  Accumulate accumulate = Accumulate::kNo;
};

}  // namespace plait
