// Log-probability of one target per row of logits, and its gradient; the caller walks over chunks
// of rows so that the logits of all tokens never exist together.
//   log_probability[t] = logits[t, target[t]] - log sum_v exp(logits[t,v])
//   dlogits[t,v] = coefficient[t] * ([v = target[t]] - softmax_v(logits[t]))       (the gradient of
//   sum_t coefficient * log_probability)
// Statistics in f32 (f64 beside f64). A row whose coefficient is 0 gets zeros.
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
  MatrixView dlogits;  // [rows, vocabulary], overwritten; may be the memory of logits if the dtype
                       // is equal
};

}  // namespace plait
