#include <cmath>
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "kernels/attention.h"
#include "kernels/rotary_embedding.h"
#include "tools/kernel_cases.h"
#include "tools/kernel_operands.h"

namespace plait {

absl::Status TimeRotaryEmbedding(KernelTimer& timer, const KernelSizes& sizes) {
  Operands make(timer);
  Tensor x = make.Bf16(sizes.tokens, sizes.heads * sizes.head_dim);
  const Tensor positions =
      make.Integers(sizes.tokens, [&](int64_t t) { return t % sizes.document_tokens; });
  PLAIT_RETURN_IF_ERROR(make.status());
  return timer.Time<RotaryEmbeddingArgs>(
      "rotary_embedding", Describe(sizes, sizes.heads, " heads of ", sizes.head_dim),
      {.bytes = Bytes({&x, &x})}, RotaryEmbeddingImplementations(),
      {.x = x.matrix(),
       .positions = positions.data<int32_t>(),
       .heads = sizes.heads,
       .head_dim = sizes.head_dim});
}

namespace {

// prefix: of the operations' names.
absl::Status TimeAttentionOf(KernelTimer& timer, const KernelSizes& sizes,
                             const std::string& prefix) {
  const int64_t tokens = sizes.tokens, heads = sizes.heads, kv_heads = sizes.kv_heads;
  const std::string shape = Describe(sizes, heads, " heads of ", sizes.head_dim, ", ", kv_heads,
                                     " key-value heads, documents of ", sizes.document_tokens);
  const std::vector<int32_t> offsets = Documents(sizes);
  const AttentionLayout layout{.heads = heads,
                               .kv_heads = kv_heads,
                               .head_dim = sizes.head_dim,
                               .scale = 1 / std::sqrt(static_cast<double>(sizes.head_dim)),
                               .documents = static_cast<int64_t>(offsets.size()) - 1,
                               .query_offsets = offsets.data(),
                               .key_offsets = offsets.data()};
  Operands make(timer);
  const Tensor q = make.Bf16(tokens, heads * sizes.head_dim);
  const Tensor k = make.Bf16(tokens, kv_heads * sizes.head_dim);
  const Tensor v = make.Bf16(tokens, kv_heads * sizes.head_dim);
  Tensor out = make.Bf16(tokens, heads * sizes.head_dim), log_sum_exp = make.F32(heads, tokens);
  PLAIT_RETURN_IF_ERROR(make.status());
  // Two products forward, five backward, half of each by causality.
  double pairs = 0;
  for (size_t i = 1; i < offsets.size(); ++i) {
    pairs += 0.5 * Product(offsets[i] - offsets[i - 1], offsets[i] - offsets[i - 1], 1);
  }
  const double product = 2.0 * pairs * Product(heads, sizes.head_dim, 1);
  PLAIT_RETURN_IF_ERROR(timer.Time<AttentionForwardArgs>(
      prefix + "attention_forward", shape,
      {.bytes = Bytes({&q, &k, &v, &out}), .flops = 2 * product}, AttentionForwardImplementations(),
      {.layout = layout,
       .q = q.matrix(),
       .k = k.matrix(),
       .v = v.matrix(),
       .out = out.matrix(),
       .log_sum_exp = log_sum_exp.matrix()}));
  const Tensor dout = make.Bf16(tokens, heads * sizes.head_dim);
  Tensor dq = make.Bf16(tokens, heads * sizes.head_dim);
  Tensor dk = make.Bf16(tokens, kv_heads * sizes.head_dim);
  Tensor dv = make.Bf16(tokens, kv_heads * sizes.head_dim);
  PLAIT_RETURN_IF_ERROR(make.status());
  return timer.Time<AttentionBackwardArgs>(
      prefix + "attention_backward", shape,
      {.bytes = Bytes({&q, &k, &v, &out, &dout, &dq, &dk, &dv}), .flops = 5 * product},
      AttentionBackwardImplementations(),
      {.layout = layout,
       .q = q.matrix(),
       .k = k.matrix(),
       .v = v.matrix(),
       .out = out.matrix(),
       .log_sum_exp = log_sum_exp.matrix(),
       .dout = dout.matrix(),
       .dq = dq.matrix(),
       .dk = dk.matrix(),
       .dv = dv.matrix()});
}

}  // namespace

// A document a row, and many packed into one.
absl::Status TimeAttention(KernelTimer& timer, const KernelSizes& sizes) {
  PLAIT_RETURN_IF_ERROR(TimeAttentionOf(timer, sizes, ""));
  timer.execution().allocator().Trim();
  KernelSizes packed = sizes;
  packed.document_tokens = sizes.packed_document_tokens;
  return TimeAttentionOf(timer, packed, "packed_");
}

}  // namespace plait
