// Mamba-1 selective scan with skip and gate, over packed documents (the state starts anew at each
// document):
//   delta[t,c] = softplus(dt[t,c] + dt_bias[c]);  A[c,n] = -exp(A_log[c,n])
//   h[t,c,n]   = exp(delta[t,c] A[c,n]) h[t-1,c,n] + delta[t,c] B[t,n] x[t,c]
//   y[t,c]     = (sum_n h[t,c,n] C[t,n] + D[c] x[t,c]) silu(z[t,c])
// Softplus is the identity above 20. h is never held for all tokens: the forward keeps it once
// every kSelectiveScanCheckpointTokens tokens of the flat microbatch, and the backward recomputes
// from there. Everything inside in f32 (f64 beside f64), one rounding at each output. Backward,
// with s = silu(z), u = sum_n h C + D x, dyy = dy s, g[t] = dyy[t] C[t] + exp(delta[t+1] A) g[t+1]:
//   dz = dy u silu'(z);  dC[t,n] = sum_c dyy h;  dB[t,n] = sum_c g delta x;  dx = delta sum_n g B +
//   D dyy;  dD += sum_t dyy x;  ddelta = sum_n g (A exp(delta A) h[t-1] + B x);  ddt = ddelta
//   sigmoid(dt + dt_bias);  ddt_bias += sum_t ddt;  dA_log += A sum_t g delta exp(delta A) h[t-1]
// What arrives for a document's final state counts as exp(delta[t+1] A) g[t+1] of its last token,
// and exp(delta A) g of its first token is the gradient of its initial state.
// Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023; the
// Jamba reference.
#pragma once

#include <cstdint>

#include "base/view.h"

namespace plait {

// Checkpoint i holds h after token min((i + 1) x kSelectiveScanCheckpointTokens, tokens) - 1.
inline constexpr int64_t kSelectiveScanCheckpointTokens = 32;

constexpr int64_t NumSelectiveScanCheckpoints(int64_t tokens) {
  return (tokens + kSelectiveScanCheckpointTokens - 1) / kSelectiveScanCheckpointTokens;
}

struct SelectiveScanInputs {
  ConstMatrixView x;        // [tokens, channels]: after convolution and SiLU; bf16, f32 or f64
  ConstMatrixView dt;       // [tokens, channels]: before bias and softplus
  ConstMatrixView z;        // [tokens, channels]
  ConstMatrixView b;        // [tokens, states]
  ConstMatrixView c;        // [tokens, states]
  ConstMatrixView a_log;    // [channels, states], f32 or f64
  ConstVectorView d;        // [channels], f32 or f64
  ConstVectorView dt_bias;  // [channels], f32 or f64
  int64_t documents = 0;
  const int32_t* document_offsets = nullptr;  // host, [documents + 1]
};

struct SelectiveScanForwardArgs {
  SelectiveScanInputs in;
  MatrixView y;  // [tokens, channels]
  // h per checkpoint, states before channels: [checkpoints x states, channels], f32 or f64. Absent:
  // not kept.
  MatrixView checkpoints;
  // h before each document's first token, and after its last: [documents x states, channels], f32
  // or f64. Absent: zero, and not kept. May be the same memory.
  ConstMatrixView initial_state;
  MatrixView final_state;
};

// dx, ddt, dz, db, dc are overwritten; da_log, dd, ddt_bias (f32 or f64) are added to.
struct SelectiveScanBackwardArgs {
  SelectiveScanInputs in;
  ConstMatrixView checkpoints;
  ConstMatrixView dy;       // [tokens, channels]
  MatrixView dx, ddt, dz;   // [tokens, channels]
  MatrixView db, dc;        // [tokens, states]; f32, f64 or the dtype of b
  MatrixView da_log;        // [channels, states]
  VectorView dd, ddt_bias;  // [channels]
  // What the forward started from. Absent: zero.
  ConstMatrixView initial_state;
  // Gradients of the final and of the initial state: [documents x states, channels], f32 or f64.
  // dfinal_state absent: zero. dinitial_state is overwritten; absent: not wanted. May be the same
  // memory.
  ConstMatrixView dfinal_state;
  MatrixView dinitial_state;
};

}  // namespace plait
