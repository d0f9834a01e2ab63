// Router of a mixture of experts, and the permutation it implies.
// Forward, per token t over all experts e:
//   p[t,e] = softmax_e(logits[t,e]);  the experts_per_token largest p are chosen, ties to the lower
//   id; weights are the chosen p themselves, not renormalised;  log_sum_exp[t] = log sum_e
//   exp(logits[t,e])
// The choice compares logits, of which p is a rising function: every device and vector width then
// chooses alike, whatever its exponential rounds to. Choices are valid and distinct even among NaN.
// Backward: dp[t,e] = (dweight of the choice e of t, else 0) + real[t] * balance_gradient[e]
//   dlogits[t,e] = p[t,e] * (dp[t,e] - sum_j p[t,j] dp[t,j]) + real[t] * 2 * z_coefficient *
//   log_sum_exp[t] * p[t,e]
// Source: the Jamba reference (softmax over all experts, top-k, no renormalisation); z-loss: Zoph
// et al., "ST-MoE", 2022.
#pragma once

#include <cstdint>

#include "base/view.h"

namespace plait {

struct RouterForwardArgs {
  ConstMatrixView logits;  // [tokens, experts], f32 or f64
  int64_t experts_per_token = 0;
  MatrixView probabilities;    // [tokens, experts], dtype of logits
  MatrixView weights;          // [tokens, experts_per_token], dtype of logits, descending
  int32_t* choices = nullptr;  // [tokens, experts_per_token]
  VectorView log_sum_exp;      // [tokens], dtype of logits
};

struct RouterBackwardArgs {
  ConstMatrixView probabilities;  // [tokens, experts]
  const int32_t* choices = nullptr;
  ConstMatrixView dweights;          // [tokens, experts_per_token]
  ConstVectorView real;              // [tokens], 1 for a real token, 0 for padding
  ConstVectorView balance_gradient;  // [experts]; absent: zero
  double z_coefficient = 0;          // already divided by the number of tokens it averages over
  ConstVectorView log_sum_exp;       // [tokens]
  MatrixView dlogits;                // [tokens, experts], overwritten
};

// Stable counting sort of the (token, choice) pairs by expert, in token order within an expert.
struct ExpertPermutationArgs {
  const int32_t* choices = nullptr;  // [tokens, experts_per_token]
  int64_t tokens = 0;
  int64_t experts_per_token = 0;
  int64_t experts = 0;
  // Added to every row_token and every token_row: where these are part of more tokens and rows.
  int32_t first_token = 0;
  int32_t first_row = 0;
  int32_t* offsets = nullptr;  // [experts + 1]: rows of each expert
  int32_t* row_token =
      nullptr;  // [rows]: token of each sorted row; rows = tokens x experts_per_token
  int32_t* token_row = nullptr;  // [tokens, experts_per_token]: sorted row of each pair
};

// out[t] = sum over j, in order, of rows[token_row[t, j] - first_row] (f32 sum, one rounding): the
// combine after the experts, and the gradient of the dispatch.
struct CombineRowsArgs {
  ConstMatrixView rows;                // [rows, dim]
  const int32_t* token_row = nullptr;  // [tokens, experts_per_token]
  int32_t first_row = 0;
  int64_t experts_per_token = 0;
  MatrixView out;  // [tokens, dim], overwritten
};

}  // namespace plait
