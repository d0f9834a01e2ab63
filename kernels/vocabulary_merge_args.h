// The log sum exp and target logit of a row over all parts of a vocabulary, from those of each part
// (token_cross_entropy_args.h):
//   log_sum_exp[t] = log sum_p exp(parts[2 p, t]);  log_probability[t] = sum_p parts[2 p + 1, t] -
//   log_sum_exp[t]
// relative to the largest part, in f64.
#pragma once

#include "base/view.h"

namespace plait {

struct VocabularyMergeArgs {
  ConstMatrixView parts;       // [2 x parts, rows], f32 or f64: log sum exp, then target logit
  VectorView log_sum_exp;      // [rows], dtype of parts, overwritten
  VectorView log_probability;  // the same
};

}  // namespace plait
