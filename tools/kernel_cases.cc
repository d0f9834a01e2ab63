// The arguments that `plait bench kernels` times: one function an operation.
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/attention.h"
#include "kernels/causal_convolution.h"
#include "kernels/gated_activation.h"
#include "kernels/grouped_matmul.h"
#include "kernels/matmul.h"
#include "kernels/optimizer_update.h"
#include "kernels/rms_norm.h"
#include "kernels/rotary_embedding.h"
#include "kernels/selective_scan.h"
#include "kernels/selective_scan_summary.h"
#include "kernels/token_cross_entropy.h"
#include "tools/kernel_operands.h"
#include "tools/kernel_timer.h"

namespace plait {
namespace {

absl::Status TimeMatmul(KernelTimer& timer, const KernelSizes& sizes) {
  const int64_t m = sizes.tokens, k = sizes.model_dim, n = 2 * sizes.channels;
  Operands make(timer);
  const Tensor x = make.Bf16(m, k), w = make.Bf16(n, k);
  Tensor y = make.Bf16(m, n);
  PLAIT_RETURN_IF_ERROR(make.status());
  return timer.Time<MatmulArgs>(
      "matmul", Describe(sizes, k, " to ", n),
      {.bytes = Bytes({&x, &w, &y}), .flops = 2.0 * Product(m, n, k)}, MatmulImplementations(),
      {.a = x.matrix(), .b = w.matrix(), .transpose_b = Transpose::kYes, .c = y.matrix()});
}

// The experts' first product: forward, gradient of its input, gradient of its weights.
absl::Status TimeGroupedMatmul(KernelTimer& timer, const KernelSizes& sizes) {
  const int64_t rows = sizes.tokens * sizes.experts_per_token, groups = sizes.experts;
  const int64_t k = sizes.model_dim, n = 2 * sizes.hidden_dim;
  std::vector<int32_t> offsets;
  for (int64_t e = 0; e <= groups; ++e) offsets.push_back(static_cast<int32_t>(rows * e / groups));
  const std::string shape =
      Describe(sizes, sizes.experts_per_token, " of ", groups, " experts, ", k, " to ", n);
  Operands make(timer);
  Tensor x = make.Bf16(rows, k), y = make.Bf16(rows, n);
  const Tensor w = make.Bf16(groups * n, k);
  PLAIT_RETURN_IF_ERROR(make.status());
  const KernelWork work{.bytes = Bytes({&x, &w, &y}), .flops = 2.0 * Product(rows, n, k)};
  PLAIT_RETURN_IF_ERROR(timer.Time<GroupedMatmulArgs>("grouped_matmul", shape, work,
                                                      GroupedMatmulImplementations(),
                                                      {.a = x.matrix(),
                                                       .offsets = offsets.data(),
                                                       .groups = groups,
                                                       .b = w.matrix(),
                                                       .transpose_b = Transpose::kYes,
                                                       .c = y.matrix()}));
  PLAIT_RETURN_IF_ERROR(timer.Time<GroupedMatmulArgs>("grouped_matmul_dgrad", shape, work,
                                                      GroupedMatmulImplementations(),
                                                      {.a = y.matrix(),
                                                       .offsets = offsets.data(),
                                                       .groups = groups,
                                                       .b = w.matrix(),
                                                       .c = x.matrix()}));
  Tensor dw = make.F32(groups * n, k);
  PLAIT_RETURN_IF_ERROR(make.status());
  return timer.Time<GroupedWeightGradientArgs>(
      "grouped_weight_gradient", shape, {.bytes = Bytes({&x, &y, &dw, &dw}), .flops = work.flops},
      GroupedWeightGradientImplementations(),
      {.a = y.matrix(),
       .b = x.matrix(),
       .offsets = offsets.data(),
       .groups = groups,
       .c = dw.matrix()});
}

absl::Status TimeRmsNorm(KernelTimer& timer, const KernelSizes& sizes) {
  const int64_t tokens = sizes.tokens, dim = sizes.model_dim;
  const std::string shape = Describe(sizes, dim, " wide, residual");
  Operands make(timer);
  const Tensor x = make.Bf16(tokens, dim), dy = make.Bf16(tokens, dim), weight = make.F32(dim);
  Tensor residual = make.Bf16(tokens, dim), y = make.Bf16(tokens, dim);
  Tensor inverse_rms = make.F32(tokens), dweight = make.F32(dim), dr = make.Bf16(tokens, dim);
  PLAIT_RETURN_IF_ERROR(make.status());
  const KernelWork work{.bytes = Bytes({&x, &x, &x, &x})};
  PLAIT_RETURN_IF_ERROR(timer.Time<RmsNormForwardArgs>("rms_norm_forward", shape, work,
                                                       RmsNormForwardImplementations(),
                                                       {.x = x.matrix(),
                                                        .residual = residual.matrix(),
                                                        .weight = weight.vector(),
                                                        .sum = residual.matrix(),
                                                        .y = y.matrix(),
                                                        .inverse_rms = inverse_rms.vector()}));
  return timer.Time<RmsNormBackwardArgs>("rms_norm_backward", shape, work,
                                         RmsNormBackwardImplementations(),
                                         {.dy = dy.matrix(),
                                          .r = x.matrix(),
                                          .weight = weight.vector(),
                                          .inverse_rms = inverse_rms.vector(),
                                          .dr_in = dr.matrix(),
                                          .dr = dr.matrix(),
                                          .dweight = dweight.vector()});
}

absl::Status TimeGatedActivation(KernelTimer& timer, const KernelSizes& sizes) {
  const int64_t tokens = sizes.tokens, dim = sizes.hidden_dim;
  const std::string shape = Describe(sizes, dim, " wide");
  Operands make(timer);
  const Tensor gate = make.Bf16(tokens, dim), up = make.Bf16(tokens, dim);
  const Tensor dout = make.Bf16(tokens, dim);
  Tensor out = make.Bf16(tokens, dim), dgate = make.Bf16(tokens, dim);
  PLAIT_RETURN_IF_ERROR(make.status());
  PLAIT_RETURN_IF_ERROR(timer.Time<GatedActivationForwardArgs>(
      "gated_activation_forward", shape, {.bytes = Bytes({&gate, &up, &out})},
      GatedActivationForwardImplementations(),
      {.gate = gate.matrix(), .up = up.matrix(), .out = out.matrix()}));
  return timer.Time<GatedActivationBackwardArgs>(
      "gated_activation_backward", shape, {.bytes = Bytes({&gate, &up, &dout, &dgate, &out})},
      GatedActivationBackwardImplementations(),
      {.gate = gate.matrix(),
       .up = up.matrix(),
       .dout = dout.matrix(),
       .dgate = dgate.matrix(),
       .dup = out.matrix()});
}

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

absl::Status TimeCausalConvolution(KernelTimer& timer, const KernelSizes& sizes) {
  constexpr int64_t kWidth = 4;
  const int64_t tokens = sizes.tokens, channels = sizes.channels;
  const std::string shape = Describe(sizes, channels, " channels, width ", kWidth);
  const std::vector<int32_t> offsets = Documents(sizes);
  const auto documents = static_cast<int64_t>(offsets.size()) - 1;
  Operands make(timer);
  const Tensor x = make.Bf16(tokens, channels), dy = make.Bf16(tokens, channels);
  const Tensor weight = make.F32(channels, kWidth), bias = make.F32(channels);
  Tensor y = make.Bf16(tokens, channels);
  Tensor dweight = make.F32(channels, kWidth), dbias = make.F32(channels);
  PLAIT_RETURN_IF_ERROR(make.status());
  PLAIT_RETURN_IF_ERROR(timer.Time<CausalConvolutionForwardArgs>(
      "causal_convolution_forward", shape, {.bytes = Bytes({&x, &y})},
      CausalConvolutionForwardImplementations(),
      {.x = x.matrix(),
       .weight = weight.matrix(),
       .bias = bias.vector(),
       .documents = documents,
       .document_offsets = offsets.data(),
       .y = y.matrix()}));
  return timer.Time<CausalConvolutionBackwardArgs>("causal_convolution_backward", shape,
                                                   {.bytes = Bytes({&x, &dy, &y})},
                                                   CausalConvolutionBackwardImplementations(),
                                                   {.x = x.matrix(),
                                                    .weight = weight.matrix(),
                                                    .bias = bias.vector(),
                                                    .documents = documents,
                                                    .document_offsets = offsets.data(),
                                                    .dy = dy.matrix(),
                                                    .dx = y.matrix(),
                                                    .dweight = dweight.matrix(),
                                                    .dbias = dbias.vector()});
}

// An exponential and four multiply-adds a state and token forward, thirteen backward.
KernelWork ScanWork(const KernelSizes& sizes, double bytes, double vector_operations) {
  const double states = Product(sizes.tokens, sizes.channels, sizes.states);
  return {.bytes = bytes, .exponentials = states, .vector_operations = vector_operations * states};
}

// Arguments of the scan that its summary shares: a whole microbatch as one part of a document.
absl::Status TimeSelectiveScanSummary(KernelTimer& timer, const KernelSizes& sizes,
                                      const SelectiveScanInputs& in, const Tensor& dy,
                                      const std::string& shape) {
  Operands make(timer);
  Tensor state = make.F32(sizes.states, sizes.channels);
  Tensor carried = make.F32(sizes.states, sizes.channels), delta_sum = make.F32(sizes.channels);
  PLAIT_RETURN_IF_ERROR(make.status());
  PLAIT_RETURN_IF_ERROR(timer.Time<SelectiveScanSummaryForwardArgs>(
      "selective_scan_summary_forward", shape, ScanWork(sizes, Bytes({&dy, &dy}), 2),
      SelectiveScanSummaryForwardImplementations(),
      {.x = in.x,
       .dt = in.dt,
       .b = in.b,
       .a_log = in.a_log,
       .dt_bias = in.dt_bias,
       .final_state = state.matrix(),
       .delta_sum = delta_sum.vector()}));
  PLAIT_RETURN_IF_ERROR(timer.Time<SelectiveScanSummaryBackwardArgs>(
      "selective_scan_summary_backward", shape, ScanWork(sizes, Bytes({&dy, &dy, &dy}), 2),
      SelectiveScanSummaryBackwardImplementations(),
      {.dt = in.dt,
       .z = in.z,
       .c = in.c,
       .dy = dy.matrix(),
       .a_log = in.a_log,
       .dt_bias = in.dt_bias,
       .dinitial_state = state.matrix(),
       .delta_sum = delta_sum.vector()}));
  return timer.Time<SelectiveScanCarryArgs>(
      "selective_scan_carry",
      absl::StrCat(sizes.channels, " channels, ", sizes.states, " states, f32"),
      {.bytes = Bytes({&state, &state, &state})}, SelectiveScanCarryImplementations(),
      {.a_log = in.a_log,
       .delta_sum = delta_sum.vector(),
       .local = state.matrix(),
       .state = carried.matrix()});
}

absl::Status TimeSelectiveScan(KernelTimer& timer, const KernelSizes& sizes) {
  const int64_t tokens = sizes.tokens, channels = sizes.channels, states = sizes.states;
  const std::string shape = Describe(sizes, channels, " channels, ", states, " states");
  const std::vector<int32_t> offsets = Documents(sizes);
  Operands make(timer);
  const Tensor x = make.Bf16(tokens, channels), dt = make.Bf16(tokens, channels);
  const Tensor z = make.Bf16(tokens, channels), dy = make.Bf16(tokens, channels);
  const Tensor b = make.Bf16(tokens, states), c = make.Bf16(tokens, states);
  const Tensor a_log = make.F32(channels, states), d = make.F32(channels);
  const Tensor dt_bias = make.F32(channels);
  Tensor y = make.Bf16(tokens, channels);
  Tensor checkpoints = make.F32(NumSelectiveScanCheckpoints(tokens) * states, channels);
  PLAIT_RETURN_IF_ERROR(make.status());
  const SelectiveScanInputs in{.x = x.matrix(),
                               .dt = dt.matrix(),
                               .z = z.matrix(),
                               .b = b.matrix(),
                               .c = c.matrix(),
                               .a_log = a_log.matrix(),
                               .d = d.vector(),
                               .dt_bias = dt_bias.vector(),
                               .documents = static_cast<int64_t>(offsets.size()) - 1,
                               .document_offsets = offsets.data()};
  PLAIT_RETURN_IF_ERROR(timer.Time<SelectiveScanForwardArgs>(
      "selective_scan_forward", shape,
      ScanWork(sizes, Bytes({&x, &dt, &z, &b, &c, &y, &checkpoints}), 4),
      SelectiveScanForwardImplementations(),
      {.in = in, .y = y.matrix(), .checkpoints = checkpoints.matrix()}));
  Tensor ddt = make.Bf16(tokens, channels), dz = make.Bf16(tokens, channels);
  Tensor db = make.F32(tokens, states), dc = make.F32(tokens, states);
  Tensor da_log = make.F32(channels, states), dd = make.F32(channels);
  Tensor ddt_bias = make.F32(channels);
  PLAIT_RETURN_IF_ERROR(make.status());
  PLAIT_RETURN_IF_ERROR(timer.Time<SelectiveScanBackwardArgs>(
      "selective_scan_backward", shape,
      ScanWork(sizes, Bytes({&x, &dt, &z, &b, &c, &dy, &y, &ddt, &dz, &db, &dc, &checkpoints}), 13),
      SelectiveScanBackwardImplementations(),
      {.in = in,
       .checkpoints = checkpoints.matrix(),
       .dy = dy.matrix(),
       .dx = y.matrix(),
       .ddt = ddt.matrix(),
       .dz = dz.matrix(),
       .db = db.matrix(),
       .dc = dc.matrix(),
       .da_log = da_log.matrix(),
       .dd = dd.vector(),
       .ddt_bias = ddt_bias.vector()}));
  return TimeSelectiveScanSummary(timer, sizes, in, dy, shape);
}

absl::Status TimeAttention(KernelTimer& timer, const KernelSizes& sizes) {
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
      "attention_forward", shape, {.bytes = Bytes({&q, &k, &v, &out}), .flops = 2 * product},
      AttentionForwardImplementations(),
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
      "attention_backward", shape,
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

absl::Status TimeTokenCrossEntropy(KernelTimer& timer, const KernelSizes& sizes) {
  const int64_t rows = sizes.vocabulary_rows;
  Operands make(timer);
  const Tensor logits = make.F32(rows, sizes.vocabulary), coefficient = make.F32(rows);
  const Tensor targets = make.Integers(rows, [](int64_t) { return 7; });
  Tensor log_probability = make.F32(rows), dlogits = make.Bf16(rows, sizes.vocabulary);
  PLAIT_RETURN_IF_ERROR(make.status());
  return timer.Time<TokenCrossEntropyArgs>(
      "token_cross_entropy",
      absl::StrCat(rows, " tokens, vocabulary ", sizes.vocabulary, ", f32 to bf16"),
      {.bytes = Bytes({&logits, &dlogits})}, TokenCrossEntropyImplementations(),
      {.logits = logits.matrix(),
       .targets = targets.data<int32_t>(),
       .log_probability = log_probability.vector(),
       .coefficient = coefficient.vector(),
       .dlogits = dlogits.matrix()});
}

// The same arrays as one parameter and as those of a model.
absl::Status TimeAdamW(KernelTimer& timer, const KernelSizes& sizes) {
  const int64_t elements = sizes.optimizer_elements;
  Operands make(timer);
  Tensor parameter = make.F32(elements), compute = make.Bf16(elements);
  Tensor first = make.ZerosF32(elements), second = make.ZerosF32(elements);
  const Tensor gradient = make.F32(elements);
  PLAIT_RETURN_IF_ERROR(make.status());
  for (const int64_t parameters : {1, 512}) {
    std::vector<AdamWTensor> tensors;
    for (int64_t i = 0; i < parameters; ++i) {
      const int64_t begin = elements * i / parameters, end = elements * (i + 1) / parameters;
      tensors.push_back({.name = "part",
                         .parameter = parameter.Slice(begin, end).vector(),
                         .gradient = gradient.Slice(begin, end).vector(),
                         .first_moment = first.Slice(begin, end).vector(),
                         .second_moment = second.Slice(begin, end).vector(),
                         .compute = compute.Slice(begin, end).vector()});
    }
    PLAIT_RETURN_IF_ERROR(timer.Time<AdamWUpdateArgs>(
        "adamw_update",
        absl::StrCat(elements, " elements of ", parameters,
                     parameters == 1 ? " parameter" : " parameters", ", f32 to bf16"),
        {.bytes = Bytes(
             {&parameter, &parameter, &gradient, &first, &first, &second, &second, &compute})},
        AdamWUpdateImplementations(), {.tensors = tensors, .learning_rate = 1e-4}));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status TimeKernels(KernelTimer& timer, const KernelSizes& sizes) {
  for (const auto time : {TimeMatmul, TimeGroupedMatmul, TimeRmsNorm, TimeGatedActivation,
                          TimeRotaryEmbedding, TimeCausalConvolution, TimeSelectiveScan,
                          TimeAttention, TimeTokenCrossEntropy, TimeAdamW}) {
    PLAIT_RETURN_IF_ERROR(time(timer, sizes));
    // Not one of them needs the others' memory.
    PLAIT_RETURN_IF_ERROR(timer.execution().compute().Synchronize());
    timer.execution().allocator().Trim();
  }
  return absl::OkStatus();
}

}  // namespace plait
