// Tensors of one attention call, and the bounds on what rounding may change in them.
#pragma once

#include <cmath>
#include <initializer_list>
#include <utility>
#include <vector>

#include "kernels/attention_args.h"
#include "tests/support/random_tensor.h"
#include "tests/support/tensor_matchers.h"

namespace plait {

inline std::vector<int32_t> Offsets(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> offsets = {0};
  for (const int32_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

struct Heads {
  int64_t heads, kv_heads, head_dim;
};

// Rows of each document.
struct Lengths {
  Lengths(std::vector<int32_t> both) : queries(both), keys(std::move(both)) {}  // NOLINT: a list
  Lengths(std::initializer_list<int32_t> both) : queries(both), keys(both) {}
  Lengths(std::vector<int32_t> queries_in, std::vector<int32_t> keys_in,
          AttentionMask mask_in = AttentionMask::kCausal)
      : queries(std::move(queries_in)), keys(std::move(keys_in)), mask(mask_in) {}

  std::vector<int32_t> queries, keys;
  AttentionMask mask = AttentionMask::kCausal;
};

// A call's tensors. result: dtype of out, dq, dk and dv.
struct AttentionCase {
  AttentionCase(const Lengths& lengths, const Heads& sizes_in, DType dtype, DType result)
      : query_offsets(Offsets(lengths.queries)),
        key_offsets(Offsets(lengths.keys)),
        mask(lengths.mask),
        sizes(sizes_in),
        q(UniformTensor({tokens(), sizes.heads * sizes.head_dim}, 1, dtype, -2, 2)),
        k(UniformTensor({key_tokens(), sizes.kv_heads * sizes.head_dim}, 2, dtype, -2, 2)),
        v(UniformTensor({key_tokens(), sizes.kv_heads * sizes.head_dim}, 3, dtype)),
        dout(UniformTensor({tokens(), sizes.heads * sizes.head_dim}, 4, dtype)),
        out(Tensor::OnHost(result, q.shape())),
        log_sum_exp(Tensor::OnHost(StatisticsDType(dtype), {sizes.heads, tokens()})),
        dq(Tensor::OnHost(result, q.shape())),
        dk(Tensor::OnHost(result, k.shape())),
        dv(Tensor::OnHost(result, k.shape())) {}
  AttentionCase(const Lengths& lengths, const Heads& sizes_in, DType dtype)
      : AttentionCase(lengths, sizes_in, dtype, dtype) {}

  int64_t tokens() const { return query_offsets.back(); }
  int64_t key_tokens() const { return key_offsets.back(); }

  AttentionLayout layout() {
    return {.heads = sizes.heads,
            .kv_heads = sizes.kv_heads,
            .head_dim = sizes.head_dim,
            .scale = 1 / std::sqrt(static_cast<double>(sizes.head_dim)),
            .documents = static_cast<int64_t>(query_offsets.size()) - 1,
            .query_offsets = query_offsets.data(),
            .key_offsets = key_offsets.data(),
            .mask = mask};
  }
  AttentionForwardArgs forward() {
    return {.layout = layout(),
            .q = q.matrix(),
            .k = k.matrix(),
            .v = v.matrix(),
            .out = out.matrix(),
            .log_sum_exp = log_sum_exp.matrix()};
  }
  AttentionBackwardArgs backward() {
    return {.layout = layout(),
            .q = q.matrix(),
            .k = k.matrix(),
            .v = v.matrix(),
            .out = out.matrix(),
            .log_sum_exp = log_sum_exp.matrix(),
            .dout = dout.matrix(),
            .dq = dq.matrix(),
            .dk = dk.matrix(),
            .dv = dv.matrix()};
  }

  std::vector<int32_t> query_offsets, key_offsets;
  AttentionMask mask;
  Heads sizes;
  Tensor q, k, v, dout, out, log_sum_exp, dq, dk, dv;
};

// Largest norm of the part of a row that one head reads.
inline double LargestRowNorm(const Tensor& x, int64_t head_dim) {
  const Tensor values = x.Converted(DType::kF64);
  double largest = 0;
  for (int64_t i = 0; i < values.num_elements(); i += head_dim) {
    double sum = 0;
    for (int64_t d = i; d < i + head_dim; ++d) sum += std::pow(values.data<double>()[d], 2);
    largest = std::max(largest, std::sqrt(sum));
  }
  return largest;
}

// One rounding inside of a kernel. In f64 the reference rounds as much.
inline double WorkingError(DType dtype) {
  return (dtype == DType::kF64 ? 2 : 1) * RoundingError(StatisticsDType(dtype));
}

// Bound on the error of one score: head_dim products summed, and the scaling.
inline double ScoreError(AttentionCase& c) {
  const double terms = static_cast<double>(c.sizes.head_dim + 2);
  return terms * WorkingError(c.q.dtype()) * LargestRowNorm(c.q, c.sizes.head_dim) *
         LargestRowNorm(c.k, c.sizes.head_dim) * c.layout().scale;
}

}  // namespace plait
