// What the rest of a document needs to know of one part of it, without the part's outputs: the
// recurrence of selective_scan_args.h is linear in the state, so that over a part's tokens
//   h_end = local + exp(A sum_t delta[t]) h_begin,  local = h_end from h_begin = 0
// and, for the gradients that travel backwards, with dyy[t] = dy silu(z),
//   dh[t-1] = exp(delta[t] A) (dh[t] + C[t] dyy[t]);  dh_begin = local + exp(A sum_t delta[t])
//   dh_end
// Parts of a document on several ranks are so summarised all at the same time; each rank then
// carries a state through the summaries of the parts before it (after it, backwards) and runs the
// scan from the true state. Everything inside in f32 (f64 beside f64).
// Source: the two passes of a segmented scan; Blelloch, "Prefix sums and their applications", 1990.
#pragma once

#include <cstdint>

#include "base/view.h"

namespace plait {

struct SelectiveScanSummaryForwardArgs {
  ConstMatrixView x;        // [tokens, channels]: of one document; bf16, f32 or f64
  ConstMatrixView dt;       // [tokens, channels]: before bias and softplus
  ConstMatrixView b;        // [tokens, states]
  ConstMatrixView a_log;    // [channels, states], f32 or f64
  ConstVectorView dt_bias;  // [channels], f32 or f64
  MatrixView final_state;   // [states, channels], f32 or f64: h after the last token from zero
  VectorView delta_sum;     // [channels], f32 or f64
};

// Of one document, behind which nothing more arrives.
struct SelectiveScanSummaryBackwardArgs {
  ConstMatrixView dt;         // [tokens, channels]: bf16, f32 or f64
  ConstMatrixView z;          // [tokens, channels]
  ConstMatrixView c;          // [tokens, states]
  ConstMatrixView dy;         // [tokens, channels]
  ConstMatrixView a_log;      // [channels, states], f32 or f64
  ConstVectorView dt_bias;    // [channels], f32 or f64
  MatrixView dinitial_state;  // [states, channels], f32 or f64
  VectorView delta_sum;       // [channels], f32 or f64: as the forward's
};

// state = local + exp(A delta_sum) state: past one part.
struct SelectiveScanCarryArgs {
  ConstMatrixView a_log;      // [channels, states], f32 or f64
  ConstVectorView delta_sum;  // [channels], f32 or f64
  ConstMatrixView local;      // [states, channels], f32 or f64
  MatrixView state;           // [states, channels], f32 or f64
};

}  // namespace plait
