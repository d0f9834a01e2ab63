// Reference causal convolution with SiLU: plain loops, sums in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/causal_convolution_args.h"
#include "kernels/reference/element.h"

namespace plait::reference {

// Input of `channel` at `position` of a document that starts at row `begin`: of x from position 0,
// of the state (or zero) before.
inline double ConvolutionInput(const ConstMatrixView& x, const ConstMatrixView& state,
                               int64_t document, int64_t begin, int64_t history, int64_t position,
                               int64_t channel) {
  if (position >= 0) return Get(x, begin + position, channel);
  return state ? Get(state, (document + 1) * history + position, channel) : 0.0;
}

inline absl::Status CausalConvolutionForward(Execution&, const CausalConvolutionForwardArgs& args) {
  const int64_t width = args.weight.columns, history = width - 1;
  std::vector<double> last(static_cast<size_t>(width));
  for (int64_t document = 0; document < args.documents; ++document) {
    const int64_t begin = args.document_offsets[document];
    const int64_t length = args.document_offsets[document + 1] - begin;
    for (int64_t channel = 0; channel < args.x.columns; ++channel) {
      const auto input = [&](int64_t position) {
        return ConvolutionInput(args.x, args.initial_state, document, begin, history, position,
                                channel);
      };
      for (int64_t t = 0; t < length; ++t) {
        double pre = args.bias ? Get(args.bias, channel) : 0.0;
        for (int64_t j = 0; j < width; ++j) {
          pre += Get(args.weight, channel, j) * input(t - history + j);
        }
        Set(args.y, begin + t, channel, pre / (1.0 + std::exp(-pre)));
      }
      if (!args.final_state) continue;
      for (int64_t j = 0; j < history; ++j) last[j] = input(length - history + j);
      for (int64_t j = 0; j < history; ++j) {
        Set(args.final_state, document * history + j, channel, last[j]);
      }
    }
  }
  return absl::OkStatus();
}

inline absl::Status CausalConvolutionBackward(Execution&,
                                              const CausalConvolutionBackwardArgs& args) {
  const int64_t width = args.weight.columns, history = width - 1;
  std::vector<double> g(static_cast<size_t>(args.x.rows)), dweight(static_cast<size_t>(width));
  std::vector<double> dinitial(static_cast<size_t>(history));
  for (int64_t channel = 0; channel < args.x.columns; ++channel) {
    double dbias = 0;
    dweight.assign(static_cast<size_t>(width), 0.0);
    for (int64_t document = 0; document < args.documents; ++document) {
      const int64_t begin = args.document_offsets[document];
      const int64_t end = args.document_offsets[document + 1];
      const auto input = [&](int64_t row) {
        return ConvolutionInput(args.x, args.initial_state, document, begin, history, row - begin,
                                channel);
      };
      for (int64_t t = begin; t < end; ++t) {
        double pre = args.bias ? Get(args.bias, channel) : 0.0;
        for (int64_t j = 0; j < width; ++j) {
          pre += Get(args.weight, channel, j) * input(t - history + j);
        }
        const double sigmoid = 1.0 / (1.0 + std::exp(-pre));
        g[t] = Get(args.dy, t, channel) * sigmoid * (1.0 + pre * (1.0 - sigmoid));
        for (int64_t j = 0; j < width; ++j) dweight[j] += g[t] * input(t - history + j);
        dbias += g[t];
      }
      // Of the input at `row`, which lies before the document where the state holds it.
      const auto dinput = [&](int64_t row) {
        double sum = 0;
        for (int64_t j = std::max<int64_t>(0, begin - row); j < width && row + j < end; ++j) {
          sum += Get(args.weight, channel, history - j) * g[row + j];
        }
        const int64_t place = row - (end - history);  // in the final state
        if (args.dfinal_state && place >= 0) {
          sum += Get(args.dfinal_state, document * history + place, channel);
        }
        return sum;
      };
      for (int64_t t = begin; t < end; ++t) Set(args.dx, t, channel, dinput(t));
      if (!args.dinitial_state) continue;
      for (int64_t j = 0; j < history; ++j) dinitial[j] = dinput(begin - history + j);
      for (int64_t j = 0; j < history; ++j) {
        Set(args.dinitial_state, document * history + j, channel, dinitial[j]);
      }
    }
    for (int64_t j = 0; j < width; ++j) Add(args.dweight, channel, j, dweight[j]);
    if (args.dbias) Add(args.dbias, channel, dbias);
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
