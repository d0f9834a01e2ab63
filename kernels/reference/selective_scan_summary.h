// Reference summary of a part of a document: plain loops over channels, states and time, everything
// in double.
#pragma once

#include <cmath>
#include <vector>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/reference/element.h"
#include "kernels/reference/selective_scan.h"
#include "kernels/selective_scan_summary_args.h"

namespace plait::reference {

inline absl::Status SelectiveScanSummaryForward(Execution&,
                                                const SelectiveScanSummaryForwardArgs& args) {
  const int64_t states = args.b.columns;
  for (int64_t channel = 0; channel < args.x.columns; ++channel) {
    const std::vector<double> a = DecayRates(args.a_log, channel);
    std::vector<double> h(static_cast<size_t>(states), 0.0);
    double delta_sum = 0;
    for (int64_t t = 0; t < args.x.rows; ++t) {
      const double delta = Softplus(Get(args.dt, t, channel) + Get(args.dt_bias, channel));
      for (int64_t n = 0; n < states; ++n) {
        h[n] = std::exp(delta * a[n]) * h[n] + delta * Get(args.b, t, n) * Get(args.x, t, channel);
      }
      delta_sum += delta;
    }
    for (int64_t n = 0; n < states; ++n) Set(args.final_state, n, channel, h[n]);
    Set(args.delta_sum, channel, delta_sum);
  }
  return absl::OkStatus();
}

inline absl::Status SelectiveScanSummaryBackward(Execution&,
                                                 const SelectiveScanSummaryBackwardArgs& args) {
  const int64_t states = args.c.columns;
  for (int64_t channel = 0; channel < args.dt.columns; ++channel) {
    const std::vector<double> a = DecayRates(args.a_log, channel);
    std::vector<double> g(static_cast<size_t>(states), 0.0);
    double delta_sum = 0;
    for (int64_t t = args.dt.rows - 1; t >= 0; --t) {
      const double delta = Softplus(Get(args.dt, t, channel) + Get(args.dt_bias, channel));
      const double z = Get(args.z, t, channel);
      const double dyy = Get(args.dy, t, channel) * z * Logistic(z);
      for (int64_t n = 0; n < states; ++n) {
        g[n] = std::exp(delta * a[n]) * (g[n] + Get(args.c, t, n) * dyy);
      }
      delta_sum += delta;
    }
    for (int64_t n = 0; n < states; ++n) Set(args.dinitial_state, n, channel, g[n]);
    Set(args.delta_sum, channel, delta_sum);
  }
  return absl::OkStatus();
}

inline absl::Status SelectiveScanCarry(Execution&, const SelectiveScanCarryArgs& args) {
  for (int64_t channel = 0; channel < args.a_log.rows; ++channel) {
    const std::vector<double> a = DecayRates(args.a_log, channel);
    for (int64_t n = 0; n < args.a_log.columns; ++n) {
      const double decay = std::exp(a[n] * Get(args.delta_sum, channel));
      const double local = Get(args.local, n, channel);
      Set(args.state, n, channel, local + decay * Get(args.state, n, channel));
    }
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
