// Log-probability of one target per row of logits, and its gradient; the caller walks over chunks
// of rows so that the logits of all tokens never exist together.
//   log_probability[t] = logits[t, target[t]] - log sum_v exp(logits[t,v])
//   dlogits[t,v] = coefficient[t] * ([v = target[t]] - softmax_v(logits[t]))       (the gradient of
//   sum_t coefficient * log_probability)
// Statistics in f32 (f64 beside f64), relative to the row's largest logit. A row whose coefficient
// is 0 gets zeros, whatever its logits; its target is meaningless. A target outside the vocabulary
// is no target and has log-probability 0: allowed where the coefficient is 0 or, without
// coefficients, where it is negative. A logit of -infinity has probability 0; a row of only those,
// or with NaN or +infinity, has log-probability and gradient NaN.
#pragma once

#include <cstdint>

#include "base/view.h"

namespace plait {

struct TokenCrossEntropyArgs {
  ConstMatrixView logits;            // [rows, vocabulary], f32, bf16 or f64
  const int32_t* targets = nullptr;  // [rows], below vocabulary
  VectorView log_probability;        // [rows], f32 or f64; absent: not kept
  VectorView log_sum_exp;            // [rows], f32 or f64; absent: not kept
  ConstVectorView coefficient;       // [rows], f32 or f64; absent: no gradient
  MatrixView dlogits;  // [rows, vocabulary], f32, bf16 or f64, overwritten; absent with
                       // coefficient; may be the memory of logits if the dtype is equal
};

}  // namespace plait
