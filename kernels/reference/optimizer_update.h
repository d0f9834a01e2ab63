// Reference AdamW and sum of squares: plain loops in double.
#pragma once

#include <cmath>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/optimizer_update_args.h"
#include "kernels/reference/element.h"

namespace plait::reference {

inline absl::Status AdamWUpdate(Execution&, const AdamWUpdateArgs& args) {
  const double step = static_cast<double>(args.step);
  const double correction1 = 1.0 - std::pow(args.beta1, step);
  const double correction2 = 1.0 - std::pow(args.beta2, step);
  for (int64_t i = 0; i < args.parameter.size; ++i) {
    const double g = args.gradient_scale * Get(args.gradient, i);
    const double m = args.beta1 * Get(args.first_moment, i) + (1.0 - args.beta1) * g;
    const double v = args.beta2 * Get(args.second_moment, i) + (1.0 - args.beta2) * g * g;
    const double denominator = std::sqrt(v / correction2) + args.epsilon;
    const double decayed = Get(args.parameter, i) * (1.0 - args.learning_rate * args.weight_decay);
    Set(args.first_moment, i, m);
    Set(args.second_moment, i, v);
    Set(args.parameter, i, decayed - args.learning_rate * (m / correction1) / denominator);
    // The copy rounds the parameter as it is kept.
    if (args.compute) Set(args.compute, i, Get(args.parameter, i));
  }
  return absl::OkStatus();
}

inline absl::Status SquaredNorm(Execution&, const SquaredNormArgs& args) {
  for (int64_t tile = 0; tile < args.tile_sums.size; ++tile) {
    const int64_t begin = tile * kSquaredNormTile;
    double sum = 0;
    for (int64_t i = begin; i < std::min(args.x.size, begin + kSquaredNormTile); ++i) {
      sum += Get(args.x, i) * Get(args.x, i);
    }
    args.tile_sums.as<double>()[tile] = sum;
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
