// Causal depthwise convolution over time, then SiLU, over packed documents (taps never cross a
// document's start):
//   pre[t,c] = bias[c] + sum_{j < width} weight[c,j] x[t - width + 1 + j, c];  y[t,c] =
//   silu(pre[t,c])
// Tap width - 1 multiplies the current token. Before a document's first token x is zero, or, with
// initial_state, the state's last width - 1 inputs. Backward, with g = dy silu'(pre) (pre is
// computed again):
//   dx[t,c] = sum_j weight[c, width - 1 - j] g[t + j, c];  dweight[c,j] += sum_t g[t,c] x[t - width
//   + 1 + j, c];  dbias[c] += sum_t g
// The same sum over j, with g of the document's tokens alone, is the gradient of the inputs before
// its first token. The gradient of the final state is added where its inputs are: in x, or before
// it in the initial state of a document shorter than width - 1.
// f32 inside (f64 beside f64). Source: Gu and Dao, "Mamba", 2023; the Jamba reference.
#pragma once

#include <cstdint>

#include "base/view.h"

namespace plait {

struct CausalConvolutionForwardArgs {
  ConstMatrixView x;       // [tokens, channels]
  ConstMatrixView weight;  // [channels, width]
  ConstVectorView bias;    // [channels]; absent: zero
  int64_t documents = 0;
  const int32_t* document_offsets = nullptr;  // host, [documents + 1]
  MatrixView y;                               // [tokens, channels]
  // Inputs before each document, oldest first: [documents x (width - 1), channels], dtype of x.
  // Absent: zeros.
  ConstMatrixView initial_state;
  // The last width - 1 inputs of each document (with those of initial_state where it is shorter).
  // Absent: not kept. May be the memory of initial_state.
  MatrixView final_state;
};

struct CausalConvolutionBackwardArgs {
  ConstMatrixView x;
  ConstMatrixView weight;
  ConstVectorView bias;
  int64_t documents = 0;
  const int32_t* document_offsets = nullptr;
  ConstMatrixView dy;  // [tokens, channels]
  MatrixView dx;       // [tokens, channels], overwritten
  MatrixView dweight;  // [channels, width], f32 or f64, added to
  VectorView dbias;    // [channels], f32 or f64, added to; absent with bias
  // As in the forward. Absent: zeros.
  ConstMatrixView initial_state;
  // Gradients of the final and of the initial state: [documents x (width - 1), channels], f32 or
  // f64, whatever the dtype of x, so that dx is rounded once. dfinal_state absent: zeros.
  // dinitial_state is overwritten; absent: not wanted. May be the same memory.
  ConstMatrixView dfinal_state;
  MatrixView dinitial_state;
};

}  // namespace plait
