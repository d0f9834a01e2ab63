// Merge of the parts of a vocabulary, row by row: quick enough on the CPU, too.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/reference/element.h"
#include "kernels/vocabulary_merge_args.h"

namespace plait::reference {

inline absl::Status VocabularyMerge(Execution&, const VocabularyMergeArgs& args) {
  for (int64_t t = 0; t < args.parts.columns; ++t) {
    double largest = -std::numeric_limits<double>::infinity(), sum = 0, target = 0;
    for (int64_t part = 0; part < args.parts.rows / 2; ++part) {
      largest = std::max(largest, Get(args.parts, 2 * part, t));
      target += Get(args.parts, 2 * part + 1, t);
    }
    for (int64_t part = 0; part < args.parts.rows / 2; ++part) {
      sum += std::exp(Get(args.parts, 2 * part, t) - largest);
    }
    const double total = largest + std::log(sum);
    Set(args.log_sum_exp, t, total);
    Set(args.log_probability, t, target - total);
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
