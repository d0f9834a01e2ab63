// Log-probability of one target per row of logits, and its gradient; the caller walks over chunks
// of rows so that the logits of all tokens never exist together.
//   log_sum_exp[t]     = log sum_v exp(logits[t,v]), or what is given
//   log_probability[t] = logits[t, target[t]] - log_sum_exp[t]
//   dlogits[t,v] = coefficient[t] * ([v = target[t]] - exp(logits[t,v] - log_sum_exp[t]))      (the
//   gradient of sum_t coefficient * log_probability)
// Statistics in f32 (f64 beside f64), relative to the row's largest logit. A row whose coefficient
// is 0 gets zeros, whatever its logits; its target is meaningless. A target outside the vocabulary
// is no target and has log-probability 0: allowed where the coefficient is 0 or, without
// coefficients, where it is negative. A logit of -infinity has probability 0; a row of only those
// has log_sum_exp -infinity, one with NaN or +infinity has NaN, and both have log-probability and
// gradient NaN.
//
// A vocabulary in parts takes two calls for each part, whose logits are some columns of the whole
// and whose targets count from the part's first column; any target outside [0, columns) is then no
// target here. The first call keeps log_sum_exp, over the part, and target_logit. The second is
// given log_sum_exp over all parts, and its log_probability and dlogits are those of the whole:
//   given_log_sum_exp = log sum_parts exp(log_sum_exp);  log_probability = sum_parts target_logit -
//   given_log_sum_exp = sum_parts log_probability
#pragma once

#include <cstdint>

#include "base/view.h"

namespace plait {

struct TokenCrossEntropyArgs {
  ConstMatrixView logits;             // [rows, vocabulary], f32, bf16 or f64
  const int32_t* targets = nullptr;   // [rows], below vocabulary
  ConstVectorView given_log_sum_exp;  // [rows], f32 or f64; absent: computed from logits
  VectorView log_probability;         // [rows], f32 or f64; absent: not kept
  VectorView log_sum_exp;  // [rows], f32 or f64; absent: not kept, as it must be where given
  VectorView
      target_logit;  // [rows], f32 or f64, 0 where the target is not here; absent: not kept,
                     // and the logits are of the whole vocabulary unless log_sum_exp is given
  ConstVectorView coefficient;  // [rows], f32 or f64; absent: no gradient
  MatrixView dlogits;           // [rows, vocabulary], f32, bf16 or f64, overwritten; absent with
                                // coefficient; may be the memory of logits if the dtype is equal
};

}  // namespace plait
