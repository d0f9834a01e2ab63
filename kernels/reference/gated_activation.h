// Reference SwiGLU: plain loops, arithmetic in double.
#pragma once

#include <cmath>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/gated_activation_args.h"
#include "kernels/reference/element.h"

namespace plait::reference {

inline absl::Status GatedActivationForward(Execution&, const GatedActivationForwardArgs& args) {
  for (int64_t i = 0; i < args.gate.rows; ++i) {
    const double weight = args.row_weight ? Get(args.row_weight, i) : 1.0;
    for (int64_t d = 0; d < args.gate.columns; ++d) {
      const double gate = Get(args.gate, i, d);
      Set(args.out, i, d, weight * gate / (1.0 + std::exp(-gate)) * Get(args.up, i, d));
    }
  }
  return absl::OkStatus();
}

inline absl::Status GatedActivationBackward(Execution&, const GatedActivationBackwardArgs& args) {
  for (int64_t i = 0; i < args.gate.rows; ++i) {
    const double weight = args.row_weight ? Get(args.row_weight, i) : 1.0;
    double dweight = 0;
    for (int64_t d = 0; d < args.gate.columns; ++d) {
      const double gate = Get(args.gate, i, d), up = Get(args.up, i, d);
      const double dout = Get(args.dout, i, d);
      const double sigmoid = 1.0 / (1.0 + std::exp(-gate));
      const double silu = gate * sigmoid;
      // silu'(x) = s (1 + x (1 - s)), s = sigmoid(x)
      const double slope = sigmoid * (1.0 + gate * (1.0 - sigmoid));
      dweight += dout * silu * up;
      Set(args.dgate, i, d, weight * dout * up * slope);
      Set(args.dup, i, d, weight * dout * silu);
    }
    if (args.drow_weight) Set(args.drow_weight, i, dweight);
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
