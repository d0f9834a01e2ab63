// Reference RMSNorm: plain loops, sums in double.
#pragma once

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/reference/element.h"
#include "kernels/rms_norm_args.h"

namespace plait::reference {

inline absl::Status RmsNormForward(Execution&, const RmsNormForwardArgs& args) {
  const int64_t dim = args.x.columns;
  for (int64_t t = 0; t < args.x.rows; ++t) {
    double square_sum = 0, x_square_sum = 0, x_max = 0;
    for (int64_t d = 0; d < dim; ++d) {
      const double x = Get(args.x, t, d);
      x_square_sum += x * x;
      x_max = std::max(x_max, std::abs(x));
      if (args.residual) Set(args.sum, t, d, Get(args.residual, t, d) + x);
      const double r = args.residual ? Get(args.sum, t, d) : x;
      square_sum += r * r;
    }
    const double s = 1.0 / std::sqrt(square_sum / static_cast<double>(dim) + args.epsilon);
    for (int64_t d = 0; d < dim; ++d) {
      const double r = args.residual ? Get(args.sum, t, d) : Get(args.x, t, d);
      Set(args.y, t, d, Get(args.weight, d) * r * s);
    }
    if (args.inverse_rms) Set(args.inverse_rms, t, s);
    if (args.activation_square_sum) Set(args.activation_square_sum, t, x_square_sum);
    if (args.activation_absolute_max) Set(args.activation_absolute_max, t, x_max);
  }
  return absl::OkStatus();
}

inline absl::Status RmsNormBackward(Execution&, const RmsNormBackwardArgs& args) {
  const int64_t dim = args.r.columns;
  for (int64_t d = 0; d < dim; ++d) {
    double sum = 0;
    for (int64_t t = 0; t < args.r.rows; ++t) {
      sum += Get(args.dy, t, d) * Get(args.r, t, d) * Get(args.inverse_rms, t);
    }
    Add(args.dweight, d, sum);
  }
  for (int64_t t = 0; t < args.r.rows; ++t) {
    const double s = Get(args.inverse_rms, t);
    double mean = 0;
    for (int64_t d = 0; d < dim; ++d)
      mean += Get(args.dy, t, d) * Get(args.weight, d) * Get(args.r, t, d);
    mean /= static_cast<double>(dim);
    for (int64_t d = 0; d < dim; ++d) {
      const double r = Get(args.r, t, d), dy = Get(args.dy, t, d);
      const double through_norm = s * (dy * Get(args.weight, d) - r * s * s * mean);
      Set(args.dr, t, d, (args.dr_in ? Get(args.dr_in, t, d) : 0.0) + through_norm);
    }
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
