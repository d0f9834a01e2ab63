// Reference rotary position embedding: angles and rotation in double.
#pragma once

#include <cmath>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/reference/element.h"
#include "kernels/rotary_embedding_args.h"

namespace plait::reference {

inline absl::Status RotaryEmbedding(Execution&, const RotaryEmbeddingArgs& args) {
  const int64_t half = args.head_dim / 2;
  const double sign = args.direction == RotaryDirection::kForward ? 1 : -1;
  for (int64_t t = 0; t < args.x.rows; ++t) {
    for (int64_t j = 0; j < half; ++j) {
      const double frequency =
          std::pow(args.theta, -2.0 * static_cast<double>(j) / static_cast<double>(args.head_dim));
      const double angle = static_cast<double>(args.positions[t]) * frequency;
      const double cosine = std::cos(angle), sine = sign * std::sin(angle);
      for (int64_t h = 0; h < args.heads; ++h) {
        const int64_t low = h * args.head_dim + j, high = low + half;
        const double a = Get(args.x, t, low), b = Get(args.x, t, high);
        Set(args.x, t, low, a * cosine - b * sine);
        Set(args.x, t, high, b * cosine + a * sine);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
