// Reference selective scan: plain loops over channels, states and time, everything in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/reference/element.h"
#include "kernels/selective_scan_args.h"

namespace plait::reference {

inline double Logistic(double x) { return 1.0 / (1.0 + std::exp(-x)); }
inline double Softplus(double x) { return x > 20.0 ? x : std::log1p(std::exp(x)); }

// A of one channel, [states].
inline std::vector<double> DecayRates(const ConstMatrixView& a_log, int64_t channel) {
  std::vector<double> a(static_cast<size_t>(a_log.columns));
  for (int64_t n = 0; n < a_log.columns; ++n) a[n] = -std::exp(Get(a_log, channel, n));
  return a;
}

// One step of the recurrence of one channel, over every state.
inline void SelectiveScanStep(const SelectiveScanInputs& in, int64_t t, int64_t channel,
                              const std::vector<double>& a, double delta, std::vector<double>& h) {
  const double x = Get(in.x, t, channel);
  for (int64_t n = 0; n < in.b.columns; ++n) {
    h[n] = std::exp(delta * a[n]) * h[n] + delta * Get(in.b, t, n) * x;
  }
}

inline absl::Status SelectiveScanForward(Execution&, const SelectiveScanForwardArgs& args) {
  const SelectiveScanInputs& in = args.in;
  const int64_t tokens = in.x.rows, states = in.b.columns;
  std::vector<double> h(static_cast<size_t>(states));
  for (int64_t channel = 0; channel < in.x.columns; ++channel) {
    const std::vector<double> a = DecayRates(in.a_log, channel);
    for (int64_t document = 0; document < in.documents; ++document) {
      for (int64_t n = 0; n < states; ++n) {
        h[n] = args.initial_state ? Get(args.initial_state, document * states + n, channel) : 0.0;
      }
      for (int64_t t = in.document_offsets[document]; t < in.document_offsets[document + 1]; ++t) {
        const double delta = Softplus(Get(in.dt, t, channel) + Get(in.dt_bias, channel));
        SelectiveScanStep(in, t, channel, a, delta, h);
        double y = Get(in.d, channel) * Get(in.x, t, channel);
        for (int64_t n = 0; n < states; ++n) y += h[n] * Get(in.c, t, n);
        const double z = Get(in.z, t, channel);
        Set(args.y, t, channel, y * z * Logistic(z));
        const bool checkpoint = (t + 1) % kSelectiveScanCheckpointTokens == 0 || t + 1 == tokens;
        if (!args.checkpoints || !checkpoint) continue;
        const int64_t row = t / kSelectiveScanCheckpointTokens * states;
        for (int64_t n = 0; n < states; ++n) Set(args.checkpoints, row + n, channel, h[n]);
      }
      if (!args.final_state) continue;
      for (int64_t n = 0; n < states; ++n) {
        Set(args.final_state, document * states + n, channel, h[n]);
      }
    }
  }
  return absl::OkStatus();
}

namespace internal {

// State n of a document's states or of their gradients, one channel; zero where they are absent.
inline double StateOrZero(const ConstMatrixView& state, int64_t document, int64_t states, int64_t n,
                          int64_t channel) {
  return state ? Get(state, document * states + n, channel) : 0.0;
}

// The backward of one channel over the whole microbatch. document_of: [tokens]. db and dc: [tokens
// x states], added to.
inline void SelectiveScanBackwardChannel(const SelectiveScanBackwardArgs& args, int64_t channel,
                                         const std::vector<int64_t>& document_of,
                                         std::vector<double>& db, std::vector<double>& dc) {
  const SelectiveScanInputs& in = args.in;
  const int64_t tokens = in.x.rows, states = in.b.columns;
  const double skip = Get(in.d, channel);
  const std::vector<double> a = DecayRates(in.a_log, channel);
  const std::vector<double> zero(static_cast<size_t>(states), 0.0);
  std::vector<double> g(zero), da_log(zero);
  // h before and after each of the tile's tokens.
  std::vector<std::vector<double>> before(kSelectiveScanCheckpointTokens, zero), after(before);
  double dd = 0, ddt_bias = 0;
  for (int64_t tile = NumSelectiveScanCheckpoints(tokens) - 1; tile >= 0; --tile) {
    const int64_t begin = tile * kSelectiveScanCheckpointTokens;
    const int64_t end = std::min(begin + kSelectiveScanCheckpointTokens, tokens);
    for (int64_t t = begin; t < end; ++t) {
      const int64_t document = document_of[t];
      std::vector<double>& h = after[t - begin];
      for (int64_t n = 0; n < states; ++n) {
        if (in.document_offsets[document] == t) {
          h[n] = StateOrZero(args.initial_state, document, states, n, channel);
        } else if (t > begin) {
          h[n] = after[t - begin - 1][n];
        } else {
          h[n] = Get(args.checkpoints, (tile - 1) * states + n, channel);
        }
      }
      before[t - begin] = h;
      const double delta = Softplus(Get(in.dt, t, channel) + Get(in.dt_bias, channel));
      SelectiveScanStep(in, t, channel, a, delta, h);
    }
    for (int64_t t = end - 1; t >= begin; --t) {
      const int64_t document = document_of[t];
      const double x = Get(in.x, t, channel), z = Get(in.z, t, channel);
      const double before_softplus = Get(in.dt, t, channel) + Get(in.dt_bias, channel);
      const double delta = Softplus(before_softplus);
      const double sigmoid = Logistic(z), dy = Get(args.dy, t, channel);
      const double dyy = dy * z * sigmoid;
      double u = skip * x, ddelta = 0, g_b = 0;
      for (int64_t n = 0; n < states; ++n) {
        const double decay = std::exp(delta * a[n]);
        const double carried = decay * before[t - begin][n], now = after[t - begin][n];
        const double b = Get(in.b, t, n), c = Get(in.c, t, n);
        // What reaches h[t] from beyond: of the next token, or of the document's final state.
        if (in.document_offsets[document + 1] == t + 1) {
          g[n] = StateOrZero(args.dfinal_state, document, states, n, channel);
        }
        u += now * c;
        dc[t * states + n] += dyy * now;
        g[n] += dyy * c;
        db[t * states + n] += g[n] * delta * x;
        g_b += g[n] * b;
        ddelta += g[n] * (a[n] * carried + b * x);
        da_log[n] += a[n] * g[n] * delta * carried;
        g[n] *= decay;
        if (args.dinitial_state && in.document_offsets[document] == t) {
          Set(args.dinitial_state, document * states + n, channel, g[n]);
        }
      }
      const double ddt = ddelta * Logistic(before_softplus);
      Set(args.dz, t, channel, dy * u * sigmoid * (1.0 + z * (1.0 - sigmoid)));
      Set(args.dx, t, channel, delta * g_b + skip * dyy);
      Set(args.ddt, t, channel, ddt);
      dd += dyy * x;
      ddt_bias += ddt;
    }
  }
  for (int64_t n = 0; n < states; ++n) Add(args.da_log, channel, n, da_log[n]);
  Add(args.dd, channel, dd);
  Add(args.ddt_bias, channel, ddt_bias);
  // A document without tokens.
  for (int64_t document = 0; args.dinitial_state && document < in.documents; ++document) {
    if (in.document_offsets[document] < in.document_offsets[document + 1]) continue;
    for (int64_t n = 0; n < states; ++n) {
      Set(args.dinitial_state, document * states + n, channel,
          StateOrZero(args.dfinal_state, document, states, n, channel));
    }
  }
}

}  // namespace internal

inline absl::Status SelectiveScanBackward(Execution&, const SelectiveScanBackwardArgs& args) {
  const SelectiveScanInputs& in = args.in;
  const int64_t tokens = in.x.rows, states = in.b.columns;
  std::vector<int64_t> document_of(static_cast<size_t>(tokens));
  for (int64_t document = 0; document < in.documents; ++document) {
    std::fill(document_of.begin() + in.document_offsets[document],
              document_of.begin() + in.document_offsets[document + 1], document);
  }
  std::vector<double> db(static_cast<size_t>(tokens * states), 0.0), dc(db);
  for (int64_t channel = 0; channel < in.x.columns; ++channel) {
    internal::SelectiveScanBackwardChannel(args, channel, document_of, db, dc);
  }
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t n = 0; n < states; ++n) {
      Set(args.db, t, n, db[t * states + n]);
      Set(args.dc, t, n, dc[t * states + n]);
    }
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
