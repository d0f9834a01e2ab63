// Sums over real rows, row by row: quick enough on the CPU, too.
#pragma once

#include <algorithm>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/real_sums_args.h"
#include "kernels/reference/element.h"

namespace plait::reference {

inline absl::Status RealRowSums(Execution&, const RealRowSumsArgs& args) {
  for (int64_t c = 0; c < args.values.columns; ++c) {
    if (args.sums) Set(args.sums, c, 0);
    if (args.maxima) Set(args.maxima, c, 0);
  }
  for (int64_t r = 0; r < args.values.rows; ++r) {
    if (Get(args.real, r) == 0) continue;
    for (int64_t c = 0; c < args.values.columns; ++c) {
      const double value = Get(args.values, r, c);
      if (args.sums) Add(args.sums, c, args.sum_of == SumOf::kSquares ? value * value : value);
      if (args.maxima) Set(args.maxima, c, std::max(Get(args.maxima, c), value));
    }
  }
  return absl::OkStatus();
}

inline absl::Status RealExpertSums(Execution&, const RealExpertSumsArgs& args) {
  for (int64_t e = 0; e < args.tokens.size; ++e) {
    for (const VectorView& result : {args.tokens, args.square_sums, args.maxima}) Set(result, e, 0);
  }
  for (int64_t i = 0; i < args.real.size * args.experts_per_token; ++i) {
    if (Get(args.real, i / args.experts_per_token) == 0) continue;
    const int32_t expert = args.choices[i], row = args.token_row[i];
    Add(args.tokens, expert, 1);
    const double weight = Get(args.pair_weight, i);
    Add(args.square_sums, expert, Get(args.square_sum, row) / (weight * weight));
    Set(args.maxima, expert,
        std::max(Get(args.maxima, expert), Get(args.absolute_max, row) / weight));
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
