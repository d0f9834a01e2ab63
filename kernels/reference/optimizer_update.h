// Reference AdamW and sum of squares: plain loops in double.
#pragma once

#include <algorithm>
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
  for (const AdamWTensor& tensor : args.tensors) {
    const double keep = 1.0 - args.learning_rate * tensor.weight_decay;
    for (int64_t i = 0; i < tensor.parameter.size; ++i) {
      const double g = args.gradient_scale * Get(tensor.gradient, i);
      const double m = args.beta1 * Get(tensor.first_moment, i) + (1.0 - args.beta1) * g;
      const double v = args.beta2 * Get(tensor.second_moment, i) + (1.0 - args.beta2) * g * g;
      const double denominator = std::sqrt(v / correction2) + args.epsilon;
      const double decayed = Get(tensor.parameter, i) * keep;
      Set(tensor.first_moment, i, m);
      Set(tensor.second_moment, i, v);
      Set(tensor.parameter, i, decayed - args.learning_rate * (m / correction1) / denominator);
      // The copy rounds the parameter as it is kept.
      if (tensor.compute) Set(tensor.compute, i, Get(tensor.parameter, i));
    }
  }
  return absl::OkStatus();
}

inline absl::Status SquaredNorm(Execution&, const SquaredNormArgs& args) {
  for (const SquaredNormTensor& tensor : args.tensors) {
    for (int64_t tile = 0; tile < tensor.tile_sums.size; ++tile) {
      const int64_t begin = tile * kSquaredNormTile;
      double sum = 0;
      for (int64_t i = begin; i < std::min(tensor.x.size, begin + kSquaredNormTile); ++i) {
        sum += Get(tensor.x, i) * Get(tensor.x, i);
      }
      tensor.tile_sums.as<double>()[tile] = sum;
    }
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
