// Reference cross-entropy of chosen tokens: plain loops, sums in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/reference/element.h"
#include "kernels/token_cross_entropy_args.h"

namespace plait::reference {

// log_sum_exp = largest + log sum. One that is given stands as a largest logit whose sum is 1.
struct LogitStatistics {
  double largest, sum;
};

inline LogitStatistics StatisticsOf(const ConstMatrixView& logits, int64_t row) {
  double largest = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int64_t v = 0; v < logits.columns; ++v) largest = std::max(largest, Get(logits, row, v));
  // Where all are -infinity, whose distance from itself is no number, any shift gives zeros.
  const double shift = std::isinf(largest) && largest < 0 ? 0.0 : largest;
  for (int64_t v = 0; v < logits.columns; ++v) sum += std::exp(Get(logits, row, v) - shift);
  return {largest, sum};
}

inline absl::Status TokenCrossEntropy(Execution&, const TokenCrossEntropyArgs& args) {
  const int64_t vocabulary = args.logits.columns;
  for (int64_t t = 0; t < args.logits.rows; ++t) {
    const auto [largest, sum] = args.given_log_sum_exp
                                    ? LogitStatistics{Get(args.given_log_sum_exp, t), 1.0}
                                    : StatisticsOf(args.logits, t);
    const int32_t target = args.targets[t];
    const bool has_target = target >= 0 && target < vocabulary;
    const double target_logit = has_target ? Get(args.logits, t, target) : 0.0;
    if (args.target_logit) Set(args.target_logit, t, target_logit);
    if (args.log_probability)
      Set(args.log_probability, t, has_target ? target_logit - largest - std::log(sum) : 0.0);
    if (args.log_sum_exp) Set(args.log_sum_exp, t, largest + std::log(sum));
    if (!args.coefficient) continue;
    const double coefficient = Get(args.coefficient, t);
    for (int64_t v = 0; v < vocabulary; ++v) {
      const double probability = std::exp(Get(args.logits, t, v) - largest) / sum;
      const double difference = (v == target ? 1.0 : 0.0) - probability;
      Set(args.dlogits, t, v, coefficient == 0 ? 0.0 : coefficient * difference);
    }
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
