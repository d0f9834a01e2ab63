// Reference of joining attention over two sets of keys: plain loops in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/attention_merge_args.h"
#include "kernels/reference/element.h"

namespace plait::reference {

inline absl::Status AttentionMerge(Execution&, const AttentionMergeArgs& args) {
  const int64_t heads = args.log_sum_exp.rows, dim = args.out.columns / heads;
  for (int64_t t = 0; t < args.out.rows; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      const double first = Get(args.log_sum_exp, h, t), second = Get(args.added_log_sum_exp, h, t);
      if (second == -std::numeric_limits<double>::infinity()) continue;
      const double largest = std::max(first, second);
      const double first_weight = std::exp(first - largest);
      const double second_weight = std::exp(second - largest);
      const double total = first_weight + second_weight;
      for (int64_t d = h * dim; d < (h + 1) * dim; ++d) {
        Set(args.out, t, d,
            first_weight / total * Get(args.out, t, d) +
                second_weight / total * Get(args.added_out, t, d));
      }
      Set(args.log_sum_exp, h, t, largest + std::log(total));
    }
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
