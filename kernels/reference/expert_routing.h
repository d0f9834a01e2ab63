// Reference router, permutation and combine: plain loops, sums in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/expert_routing_args.h"
#include "kernels/reference/element.h"

namespace plait::reference {

inline absl::Status RouterForward(Execution&, const RouterForwardArgs& args) {
  const int64_t experts = args.logits.columns, chosen = args.experts_per_token;
  std::vector<char> taken(static_cast<size_t>(experts));
  for (int64_t t = 0; t < args.logits.rows; ++t) {
    double largest = Get(args.logits, t, 0), sum = 0;
    for (int64_t e = 1; e < experts; ++e) largest = std::max(largest, Get(args.logits, t, e));
    for (int64_t e = 0; e < experts; ++e) sum += std::exp(Get(args.logits, t, e) - largest);
    const double log_sum_exp = largest + std::log(sum);
    Set(args.log_sum_exp, t, log_sum_exp);
    for (int64_t e = 0; e < experts; ++e) {
      Set(args.probabilities, t, e, std::exp(Get(args.logits, t, e) - largest) / sum);
    }
    std::ranges::fill(taken, 0);
    for (int64_t j = 0; j < chosen; ++j) {
      // The first expert left starts, so that a choice is valid even among NaNs.
      int64_t best = -1;
      for (int64_t e = 0; e < experts; ++e) {
        if (taken[static_cast<size_t>(e)]) continue;
        if (best < 0 || Get(args.logits, t, e) > Get(args.logits, t, best)) best = e;
      }
      taken[static_cast<size_t>(best)] = 1;
      args.choices[t * chosen + j] = static_cast<int32_t>(best);
      Set(args.weights, t, j, Get(args.probabilities, t, best));
    }
  }
  return absl::OkStatus();
}

inline absl::Status RouterBackward(Execution&, const RouterBackwardArgs& args) {
  const int64_t experts = args.probabilities.columns, chosen = args.dweights.columns;
  std::vector<double> dp(static_cast<size_t>(experts));
  for (int64_t t = 0; t < args.probabilities.rows; ++t) {
    const double real = Get(args.real, t);
    for (int64_t e = 0; e < experts; ++e) {
      dp[static_cast<size_t>(e)] =
          args.balance_gradient ? real * Get(args.balance_gradient, e) : 0.0;
    }
    for (int64_t j = 0; j < chosen; ++j) {
      dp[static_cast<size_t>(args.choices[t * chosen + j])] += Get(args.dweights, t, j);
    }
    double mean = 0;
    for (int64_t e = 0; e < experts; ++e) {
      mean += Get(args.probabilities, t, e) * dp[static_cast<size_t>(e)];
    }
    const double z = real * 2 * args.z_coefficient * Get(args.log_sum_exp, t);
    for (int64_t e = 0; e < experts; ++e) {
      Set(args.dlogits, t, e,
          Get(args.probabilities, t, e) * (dp[static_cast<size_t>(e)] - mean + z));
    }
  }
  return absl::OkStatus();
}

inline absl::Status ExpertPermutation(Execution&, const ExpertPermutationArgs& args) {
  const int64_t rows = args.tokens * args.experts_per_token;
  std::fill(args.offsets, args.offsets + args.experts + 1, 0);
  for (int64_t i = 0; i < rows; ++i) ++args.offsets[args.choices[i] + 1];
  for (int64_t e = 0; e < args.experts; ++e) args.offsets[e + 1] += args.offsets[e];
  std::vector<int32_t> next(args.offsets, args.offsets + args.experts);
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t row = next[static_cast<size_t>(args.choices[i])]++;
    args.row_token[row] = args.first_token + static_cast<int32_t>(i / args.experts_per_token);
    args.token_row[i] = args.first_row + row;
  }
  return absl::OkStatus();
}

inline absl::Status CombineRows(Execution&, const CombineRowsArgs& args) {
  for (int64_t t = 0; t < args.out.rows; ++t) {
    for (int64_t d = 0; d < args.out.columns; ++d) {
      double sum = 0;
      for (int64_t j = 0; j < args.experts_per_token; ++j) {
        sum += Get(args.rows, args.token_row[t * args.experts_per_token + j] - args.first_row, d);
      }
      Set(args.out, t, d, sum);
    }
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
