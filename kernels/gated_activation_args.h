// SwiGLU's gate, with an optional weight per row (the router's weight of an expert's row):
//   out[i,d] = weight[i] * silu(gate[i,d]) * up[i,d],  silu(x) = x / (1 + exp(-x))
// Backward: dup = w dout silu(gate); dgate = w dout up silu'(gate); dweight[i] = sum_d dout[i,d]
// silu(gate[i,d]) up[i,d]. f32 inside (f64 beside f64), one rounding at each output. Source:
// Shazeer, "GLU Variants Improve Transformer", 2020.
#pragma once

#include "base/view.h"

namespace plait {

struct GatedActivationForwardArgs {
  ConstMatrixView gate, up;    // [rows, dim]
  ConstVectorView row_weight;  // [rows], f32 or f64; absent: 1
  MatrixView out;              // [rows, dim]
};

struct GatedActivationBackwardArgs {
  ConstMatrixView gate, up;    // [rows, dim]
  ConstVectorView row_weight;  // [rows]; absent: 1
  ConstMatrixView dout;        // [rows, dim]
  MatrixView dgate, dup;       // [rows, dim], overwritten; may be the memory of gate and up
  VectorView drow_weight;      // [rows], f32 or f64, overwritten; absent with row_weight
};

}  // namespace plait
