// What the auxiliary losses and the watch over activations are made of: sums and maxima over the
// real rows of a microbatch, in f64. A row is real where real[row] is not 0.
#pragma once

#include <cstdint>

#include "base/view.h"

namespace plait {

enum class SumOf { kValues, kSquares };

// sums[c] = sum over the real rows r of values[r, c], or of its square;
// maxima[c] = the largest values[r, c] of the real rows, at least 0.
struct RealRowSumsArgs {
  ConstVectorView real;    // [rows], f32 or f64
  ConstMatrixView values;  // [rows, columns], f32 or f64
  SumOf sum_of = SumOf::kValues;
  VectorView sums;    // f64 [columns], overwritten; absent: not wanted
  VectorView maxima;  // f64 [columns], overwritten; absent: not wanted
};

// Per expert, over the pairs of real tokens and their choices: how many there are; with r the row
// that the pair was sorted into, the sum of square_sum[r] / pair_weight^2 and the largest
// absolute_max[r] / pair_weight, at least 0: of the expert's output, where the rows are that output
// times the weight.
struct RealExpertSumsArgs {
  ConstVectorView real;                // [tokens], f32 or f64
  const int32_t* choices = nullptr;    // [tokens, experts_per_token]
  const int32_t* token_row = nullptr;  // [tokens, experts_per_token]
  int64_t experts_per_token = 0;
  ConstVectorView pair_weight;   // [tokens x experts_per_token], f32 or f64
  ConstVectorView square_sum;    // the same size and dtype
  ConstVectorView absolute_max;  // the same
  VectorView tokens;             // f64 [experts], overwritten; the other two as well
  VectorView square_sums;        // f64 [experts]
  VectorView maxima;             // f64 [experts]
};

}  // namespace plait
