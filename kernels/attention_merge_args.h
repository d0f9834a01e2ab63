// Joins the results of attention over two sets of keys into that over both, in place:
//   total[h,t] = exp(log_sum_exp[h,t]) + exp(added_log_sum_exp[h,t])
//   out[t,h,:] = (exp(log_sum_exp[h,t]) out[t,h,:] + exp(added_log_sum_exp[h,t]) added_out[t,h,:])
//                / total[h,t]
//   log_sum_exp[h,t] = log total[h,t]
// relative to the larger log_sum_exp, so that nothing overflows. Added -infinity (no keys) leaves
// the bits as they are. NaN on either side stays.
#pragma once

#include "base/view.h"

namespace plait {

struct AttentionMergeArgs {
  MatrixView out;                     // [tokens, heads x head_dim], f32 or f64
  MatrixView log_sum_exp;             // [heads, tokens], dtype of out
  ConstMatrixView added_out;          // [tokens, heads x head_dim], dtype of out
  ConstMatrixView added_log_sum_exp;  // [heads, tokens], dtype of out
};

}  // namespace plait
