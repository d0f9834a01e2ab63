// Reference attention: one query at a time, plain loops, sums in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/attention_args.h"
#include "kernels/reference/element.h"

namespace plait::reference {

// sum_d a[a_row, a_column + d] b[b_row, b_column + d] over one head.
inline double HeadDot(const ConstMatrixView& a, int64_t a_row, int64_t a_column,
                      const ConstMatrixView& b, int64_t b_row, int64_t b_column, int64_t head_dim) {
  double sum = 0;
  for (int64_t d = 0; d < head_dim; ++d)
    sum += Get(a, a_row, a_column + d) * Get(b, b_row, b_column + d);
  return sum;
}

// Keys that the query `from_end` places before its document's last one sees.
inline int64_t VisibleKeys(const AttentionLayout& layout, int64_t keys, int64_t from_end) {
  return layout.mask == AttentionMask::kNone ? keys : keys - from_end;
}

inline absl::Status AttentionForward(Execution&, const AttentionForwardArgs& args) {
  const AttentionLayout& layout = args.layout;
  const int64_t dim = layout.head_dim, group = layout.heads / layout.kv_heads;
  std::vector<double> p, sums(static_cast<size_t>(dim));
  for (int64_t s = 0; s < layout.documents; ++s) {
    const int64_t query_begin = layout.query_offsets[s], query_end = layout.query_offsets[s + 1];
    const int64_t key_begin = layout.key_offsets[s], key_end = layout.key_offsets[s + 1];
    for (int64_t h = 0; h < layout.heads; ++h) {
      const int64_t column = h * dim, kv_column = h / group * dim;
      for (int64_t i = query_begin; i < query_end; ++i) {
        const int64_t visible = VisibleKeys(layout, key_end - key_begin, query_end - 1 - i);
        p.resize(static_cast<size_t>(visible));
        double largest = -std::numeric_limits<double>::infinity();
        for (int64_t j = 0; j < visible; ++j) {
          p[j] = layout.scale * HeadDot(args.q, i, column, args.k, key_begin + j, kv_column, dim);
          largest = std::max(largest, p[j]);
        }
        double total = 0;
        std::fill(sums.begin(), sums.end(), 0.0);
        for (int64_t j = 0; j < visible; ++j) {
          p[j] = std::exp(p[j] - largest);
          total += p[j];
          for (int64_t d = 0; d < dim; ++d)
            sums[d] += p[j] * Get(args.v, key_begin + j, kv_column + d);
        }
        for (int64_t d = 0; d < dim; ++d)
          Set(args.out, i, column + d, visible == 0 ? 0.0 : sums[d] / total);
        if (args.log_sum_exp) Set(args.log_sum_exp, h, i, largest + std::log(total));
      }
    }
  }
  return absl::OkStatus();
}

inline absl::Status AttentionBackward(Execution&, const AttentionBackwardArgs& args) {
  const AttentionLayout& layout = args.layout;
  const int64_t dim = layout.head_dim, group = layout.heads / layout.kv_heads;
  std::vector<double> dq(static_cast<size_t>(dim)), dk, dv;
  for (int64_t s = 0; s < layout.documents; ++s) {
    const int64_t query_begin = layout.query_offsets[s], query_end = layout.query_offsets[s + 1];
    const int64_t key_begin = layout.key_offsets[s], keys = layout.key_offsets[s + 1] - key_begin;
    for (int64_t g = 0; g < layout.kv_heads; ++g) {
      const int64_t kv_column = g * dim;
      dk.assign(static_cast<size_t>(keys * dim), 0.0);
      dv.assign(static_cast<size_t>(keys * dim), 0.0);
      for (int64_t h = g * group; h < (g + 1) * group; ++h) {
        const int64_t column = h * dim;
        for (int64_t i = query_begin; i < query_end; ++i) {
          const int64_t visible = VisibleKeys(layout, keys, query_end - 1 - i);
          const double dout_out = HeadDot(args.dout, i, column, args.out, i, column, dim);
          const double log_sum_exp = Get(args.log_sum_exp, h, i);
          std::fill(dq.begin(), dq.end(), 0.0);
          for (int64_t j = 0; j < visible; ++j) {
            const int64_t key = key_begin + j;
            const double score =
                layout.scale * HeadDot(args.q, i, column, args.k, key, kv_column, dim);
            const double p = std::exp(score - log_sum_exp);
            const double dp = HeadDot(args.dout, i, column, args.v, key, kv_column, dim);
            const double ds = p * (dp - dout_out) * layout.scale;
            for (int64_t d = 0; d < dim; ++d) {
              dv[j * dim + d] += p * Get(args.dout, i, column + d);
              dk[j * dim + d] += ds * Get(args.q, i, column + d);
              dq[d] += ds * Get(args.k, key, kv_column + d);
            }
          }
          for (int64_t d = 0; d < dim; ++d) Set(args.dq, i, column + d, dq[d]);
        }
      }
      for (int64_t j = 0; j < keys; ++j) {
        for (int64_t d = 0; d < dim; ++d) {
          Set(args.dk, key_begin + j, kv_column + d, dk[j * dim + d]);
          Set(args.dv, key_begin + j, kv_column + d, dv[j * dim + d]);
        }
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace plait::reference
