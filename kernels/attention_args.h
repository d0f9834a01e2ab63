// Grouped-query attention over packed documents (flash-style: the score matrix is never held
// whole). Query head h reads key/value head h / (heads / kv_heads). Within document s, causal
// query i (of Q) sees keys j (of K) with j <= i + K - Q: the ends are aligned, so that one call
// serves training (Q = K), cached decoding and queries of which earlier ones are elsewhere (Q < K).
// Without a mask every query sees all K keys, of which there may be any number: one with none has
// out 0 and log_sum_exp -infinity.
//   P = softmax_j(scale q_i . k_j),  out_i = sum_j P_ij v_j,  log_sum_exp[h, i] = log sum_j
//   exp(scale q_i . k_j)
// Backward, with D_i = dout_i . out_i:
//   dv_j = sum_i P_ij dout_i;  dS_ij = P_ij (dout_i . v_j - D_i) scale;  dq_i = sum_j dS_ij k_j;
//   dk_j = sum_i dS_ij q_i
// Where the keys of a query are spread over several calls, attention_merge.h joins their out and
// log_sum_exp; the backward of each call, given the joined ones, yields its exact share: dq sums
// over the calls, dk and dv are final.
// Scores, softmax and sums in f32 (f64 beside f64). Source: Dao, "FlashAttention-2", 2023.
#pragma once

#include <cstdint>

#include "base/view.h"

namespace plait {

enum class AttentionMask { kCausal, kNone };

struct AttentionLayout {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  double scale = 0;  // head_dim^-0.5
  int64_t documents = 0;
  const int32_t* query_offsets = nullptr;  // host, [documents + 1]
  const int32_t* key_offsets =
      nullptr;  // host, [documents + 1]; equal to query_offsets where all queries are here
  AttentionMask mask = AttentionMask::kCausal;
};

struct AttentionForwardArgs {
  AttentionLayout layout;
  ConstMatrixView q;       // [tokens, heads x head_dim], f32, bf16 or f64; k and v alike
  ConstMatrixView k;       // [key_tokens, kv_heads x head_dim]
  ConstMatrixView v;       // [key_tokens, kv_heads x head_dim]
  MatrixView out;          // [tokens, heads x head_dim], dtype of q, or f32 beside bf16
  MatrixView log_sum_exp;  // [heads, tokens], f32 or f64; absent: not kept
};

// dq, dk, dv are overwritten, each in the dtype of q, or f32 beside bf16; those of keys that no
// query sees are 0.
struct AttentionBackwardArgs {
  AttentionLayout layout;
  ConstMatrixView q, k, v;      // as in the forward
  ConstMatrixView out;          // [tokens, heads x head_dim]
  ConstMatrixView log_sum_exp;  // [heads, tokens]
  ConstMatrixView dout;         // [tokens, heads x head_dim]
  MatrixView dq;                // [tokens, heads x head_dim]
  MatrixView dk, dv;            // [key_tokens, kv_heads x head_dim]
};

}  // namespace plait
