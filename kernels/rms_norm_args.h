// Arguments of RMSNorm, with optional residual addition and activation statistics.
//   r[t,d] = residual[t,d] + x[t,d]         (r = x where there is no residual)
//   s[t]   = 1 / sqrt(mean_d(r[t,d]^2) + epsilon)
//   y[t,d] = weight[d] * r[t,d] * s[t]
// Backward, with g = dy * weight:
//   dr[t,d]    = dr_in[t,d] + s[t] * (g[t,d] - r[t,d] * s[t]^2 * mean_d(g[t,d] * r[t,d]))
//   dweight[d] += sum_t dy[t,d] * r[t,d] * s[t]
// Arithmetic is f32 (f64 beside f64); the product with the weight is taken before the one rounding
// of y. Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
#pragma once

#include "base/view.h"

namespace plait {

struct RmsNormForwardArgs {
  ConstMatrixView x;         // [tokens, dim], bf16, f32 or f64
  ConstMatrixView residual;  // [tokens, dim], dtype of x; absent: none
  ConstVectorView weight;    // [dim], dtype of x or f32
  double epsilon = 1e-6;
  MatrixView sum;  // r [tokens, dim], dtype of x; may be the memory of `residual`; absent with it
  MatrixView y;    // [tokens, dim], dtype of x
  VectorView inverse_rms;  // s [tokens], f32 or f64; absent: not kept
  VectorView
      activation_square_sum;  // sum_d x[t,d]^2 per token [tokens], f32 or f64; absent: not computed
  VectorView activation_absolute_max;  // max_d |x[t,d]| per token [tokens], f32 or f64; absent: not
                                       // computed
};

struct RmsNormBackwardArgs {
  ConstMatrixView dy;           // [tokens, dim]
  ConstMatrixView r;            // [tokens, dim], the normalised input
  ConstVectorView weight;       // [dim]
  ConstVectorView inverse_rms;  // [tokens]
  ConstMatrixView
      dr_in;  // gradient that reaches r by the residual path; absent: zero; may be the memory of dr
  MatrixView dr;       // [tokens, dim], overwritten
  VectorView dweight;  // [dim], f32 or f64, added to
};

}  // namespace plait
