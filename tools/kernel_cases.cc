// The arguments that `plait bench kernels` times: one function an operation.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "kernels/attention.h"
#include "kernels/causal_convolution.h"
#include "kernels/gated_activation.h"
#include "kernels/grouped_matmul.h"
#include "kernels/matmul.h"
#include "kernels/optimizer_update.h"
#include "kernels/rms_norm.h"
#include "kernels/selective_scan.h"
#include "kernels/selective_scan_summary.h"
#include "kernels/token_cross_entropy.h"
#include "tools/kernel_timer.h"

namespace plait {
namespace {

constexpr int64_t kModelDim = 256;
constexpr int64_t kHiddenDim = 448;
constexpr int64_t kChannels = 512;
constexpr int64_t kStates = 16;
constexpr int64_t kConvWidth = 4;
constexpr int64_t kHeads = 4, kKvHeads = 2, kHeadDim = 64;
constexpr int64_t kExperts = 4, kExpertsPerToken = 2;
constexpr int64_t kVocabulary = 8192;
constexpr int64_t kDocumentTokens = 512;

// Uniform in [-0.5, 0.5).
Tensor Random(DType dtype, const Shape& shape) {
  const RandomKey key(/*seed=*/1, RandomPurpose::kTest, "kernel benchmark");
  Tensor tensor = Tensor::OnHost(DType::kF32, shape);
  for (int64_t i = 0; i < tensor.num_elements(); ++i) {
    tensor.data<float>()[i] =
        static_cast<float>(key.Words(static_cast<uint64_t>(i))[0]) * 0x1.0p-32f - 0.5f;
  }
  return dtype == DType::kF32 ? tensor : tensor.Converted(dtype);
}
Tensor Bf16(int64_t rows, int64_t columns) { return Random(DType::kBf16, {rows, columns}); }
Tensor F32(int64_t size) { return Random(DType::kF32, {size}); }
Tensor F32(int64_t rows, int64_t columns) { return Random(DType::kF32, {rows, columns}); }

// A document begins every kDocumentTokens.
std::vector<int32_t> Documents(int64_t tokens) {
  std::vector<int32_t> offsets;
  for (int64_t t = 0; t < tokens; t += kDocumentTokens) offsets.push_back(static_cast<int32_t>(t));
  offsets.push_back(static_cast<int32_t>(tokens));
  return offsets;
}

std::string Words(int64_t tokens, const std::string& rest) {
  return absl::StrCat(tokens, " tokens, ", rest, ", bf16");
}

absl::Status TimeMatmul(KernelTimer& timer, int64_t tokens) {
  const Tensor x = Bf16(tokens, kModelDim), w = Bf16(2 * kChannels, kModelDim);
  Tensor y = Bf16(tokens, 2 * kChannels);
  const double flops = 2.0 * tokens * kModelDim * 2 * kChannels;
  return timer.Time<MatmulArgs>(
      "matmul", Words(tokens, "256 to 1024"), flops, x.bytes() + w.bytes() + y.bytes(),
      MatmulImplementations(),
      {.a = x.matrix(), .b = w.matrix(), .transpose_b = Transpose::kYes, .c = y.matrix()});
}

absl::Status TimeGroupedMatmul(KernelTimer& timer, int64_t tokens) {
  const int64_t rows = tokens * kExpertsPerToken;
  std::vector<int32_t> offsets;
  for (int64_t e = 0; e <= kExperts; ++e)
    offsets.push_back(static_cast<int32_t>(rows * e / kExperts));
  const Tensor x = Bf16(rows, kModelDim), w = Bf16(kExperts * 2 * kHiddenDim, kModelDim);
  Tensor y = Bf16(rows, 2 * kHiddenDim);
  const double flops = 2.0 * rows * kModelDim * 2 * kHiddenDim;
  return timer.Time<GroupedMatmulArgs>(
      "grouped_matmul", Words(tokens, "2 of 4 experts, 256 to 896"), flops,
      x.bytes() + w.bytes() + y.bytes(), GroupedMatmulImplementations(),
      {.a = x.matrix(),
       .offsets = offsets.data(),
       .groups = kExperts,
       .b = w.matrix(),
       .transpose_b = Transpose::kYes,
       .c = y.matrix()});
}

absl::Status TimeRmsNorm(KernelTimer& timer, int64_t tokens) {
  const std::string shape = Words(tokens, "256 wide, residual");
  const Tensor x = Bf16(tokens, kModelDim), dy = Bf16(tokens, kModelDim), weight = F32(kModelDim);
  Tensor residual = Bf16(tokens, kModelDim), y = Bf16(tokens, kModelDim);
  Tensor inverse_rms = F32(tokens), dweight = F32(kModelDim), dr = Bf16(tokens, kModelDim);
  PLAIT_RETURN_IF_ERROR(timer.Time<RmsNormForwardArgs>(
      "rms_norm_forward", shape, 0, 4.0 * x.bytes(), RmsNormForwardImplementations(),
      {.x = x.matrix(),
       .residual = residual.matrix(),
       .weight = weight.vector(),
       .sum = residual.matrix(),
       .y = y.matrix(),
       .inverse_rms = inverse_rms.vector()}));
  const Tensor r = Bf16(tokens, kModelDim);
  return timer.Time<RmsNormBackwardArgs>("rms_norm_backward", shape, 0, 4.0 * x.bytes(),
                                         RmsNormBackwardImplementations(),
                                         {.dy = dy.matrix(),
                                          .r = r.matrix(),
                                          .weight = weight.vector(),
                                          .inverse_rms = inverse_rms.vector(),
                                          .dr_in = dr.matrix(),
                                          .dr = dr.matrix(),
                                          .dweight = dweight.vector()});
}

absl::Status TimeGatedActivation(KernelTimer& timer, int64_t tokens) {
  const std::string shape = Words(tokens, "448 wide");
  const Tensor gate = Bf16(tokens, kHiddenDim), up = gate.Clone(), dout = gate.Clone();
  Tensor out = gate.Clone(), dgate = gate.Clone(), dup = gate.Clone();
  PLAIT_RETURN_IF_ERROR(timer.Time<GatedActivationForwardArgs>(
      "gated_activation_forward", shape, 0, 3.0 * gate.bytes(),
      GatedActivationForwardImplementations(),
      {.gate = gate.matrix(), .up = up.matrix(), .out = out.matrix()}));
  return timer.Time<GatedActivationBackwardArgs>("gated_activation_backward", shape, 0,
                                                 5.0 * gate.bytes(),
                                                 GatedActivationBackwardImplementations(),
                                                 {.gate = gate.matrix(),
                                                  .up = up.matrix(),
                                                  .dout = dout.matrix(),
                                                  .dgate = dgate.matrix(),
                                                  .dup = dup.matrix()});
}

absl::Status TimeCausalConvolution(KernelTimer& timer, int64_t tokens) {
  const std::string shape = Words(tokens, "512 channels, width 4");
  const std::vector<int32_t> offsets = Documents(tokens);
  const auto documents = static_cast<int64_t>(offsets.size()) - 1;
  const Tensor x = Bf16(tokens, kChannels), dy = x.Clone();
  const Tensor weight = F32(kChannels, kConvWidth), bias = F32(kChannels);
  Tensor y = x.Clone(), dx = x.Clone();
  Tensor dweight = F32(kChannels, kConvWidth), dbias = F32(kChannels);
  PLAIT_RETURN_IF_ERROR(timer.Time<CausalConvolutionForwardArgs>(
      "causal_convolution_forward", shape, 0, 2.0 * x.bytes(),
      CausalConvolutionForwardImplementations(),
      {.x = x.matrix(),
       .weight = weight.matrix(),
       .bias = bias.vector(),
       .documents = documents,
       .document_offsets = offsets.data(),
       .y = y.matrix()}));
  return timer.Time<CausalConvolutionBackwardArgs>("causal_convolution_backward", shape, 0,
                                                   3.0 * x.bytes(),
                                                   CausalConvolutionBackwardImplementations(),
                                                   {.x = x.matrix(),
                                                    .weight = weight.matrix(),
                                                    .bias = bias.vector(),
                                                    .documents = documents,
                                                    .document_offsets = offsets.data(),
                                                    .dy = dy.matrix(),
                                                    .dx = dx.matrix(),
                                                    .dweight = dweight.matrix(),
                                                    .dbias = dbias.vector()});
}

// Arguments of the scan that its summary shares: a whole microbatch as one part of a document.
absl::Status TimeSelectiveScanSummary(KernelTimer& timer, const SelectiveScanInputs& in,
                                      const Tensor& dy, const std::string& shape) {
  Tensor state = F32(kStates, kChannels), carried = state.Clone(), delta_sum = F32(kChannels);
  PLAIT_RETURN_IF_ERROR(timer.Time<SelectiveScanSummaryForwardArgs>(
      "selective_scan_summary_forward", shape, 0, 2.0 * dy.bytes(),
      SelectiveScanSummaryForwardImplementations(),
      {.x = in.x,
       .dt = in.dt,
       .b = in.b,
       .a_log = in.a_log,
       .dt_bias = in.dt_bias,
       .final_state = state.matrix(),
       .delta_sum = delta_sum.vector()}));
  PLAIT_RETURN_IF_ERROR(timer.Time<SelectiveScanSummaryBackwardArgs>(
      "selective_scan_summary_backward", shape, 0, 3.0 * dy.bytes(),
      SelectiveScanSummaryBackwardImplementations(),
      {.dt = in.dt,
       .z = in.z,
       .c = in.c,
       .dy = dy.matrix(),
       .a_log = in.a_log,
       .dt_bias = in.dt_bias,
       .dinitial_state = state.matrix(),
       .delta_sum = delta_sum.vector()}));
  return timer.Time<SelectiveScanCarryArgs>("selective_scan_carry", "512 channels, 16 states, f32",
                                            0, 3.0 * state.bytes(),
                                            SelectiveScanCarryImplementations(),
                                            {.a_log = in.a_log,
                                             .delta_sum = delta_sum.vector(),
                                             .local = state.matrix(),
                                             .state = carried.matrix()});
}

absl::Status TimeSelectiveScan(KernelTimer& timer, int64_t tokens) {
  const std::string shape = Words(tokens, "512 channels, 16 states");
  const std::vector<int32_t> offsets = Documents(tokens);
  const Tensor x = Bf16(tokens, kChannels), dt = x.Clone(), z = x.Clone(), dy = x.Clone();
  const Tensor b = Bf16(tokens, kStates), c = b.Clone();
  const Tensor a_log = F32(kChannels, kStates), d = F32(kChannels), dt_bias = F32(kChannels);
  Tensor y = x.Clone();
  Tensor checkpoints = F32(NumSelectiveScanCheckpoints(tokens) * kStates, kChannels);
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
      "selective_scan_forward", shape, 0, 4.0 * x.bytes() + checkpoints.bytes(),
      SelectiveScanForwardImplementations(),
      {.in = in, .y = y.matrix(), .checkpoints = checkpoints.matrix()}));
  Tensor dx = x.Clone(), ddt = x.Clone(), dz = x.Clone();
  Tensor db = F32(tokens, kStates), dc = F32(tokens, kStates);
  Tensor da_log = F32(kChannels, kStates), dd = F32(kChannels), ddt_bias = F32(kChannels);
  PLAIT_RETURN_IF_ERROR(timer.Time<SelectiveScanBackwardArgs>(
      "selective_scan_backward", shape, 0, 7.0 * x.bytes() + checkpoints.bytes(),
      SelectiveScanBackwardImplementations(),
      {.in = in,
       .checkpoints = checkpoints.matrix(),
       .dy = dy.matrix(),
       .dx = dx.matrix(),
       .ddt = ddt.matrix(),
       .dz = dz.matrix(),
       .db = db.matrix(),
       .dc = dc.matrix(),
       .da_log = da_log.matrix(),
       .dd = dd.vector(),
       .ddt_bias = ddt_bias.vector()}));
  return TimeSelectiveScanSummary(timer, in, dy, shape);
}

absl::Status TimeAttention(KernelTimer& timer, int64_t tokens) {
  const std::string shape = Words(tokens, "4 heads of 64, 2 key-value heads, documents of 512");
  const std::vector<int32_t> offsets = Documents(tokens);
  const AttentionLayout layout{.heads = kHeads,
                               .kv_heads = kKvHeads,
                               .head_dim = kHeadDim,
                               .scale = 0.125,
                               .documents = static_cast<int64_t>(offsets.size()) - 1,
                               .query_offsets = offsets.data(),
                               .key_offsets = offsets.data()};
  const Tensor q = Bf16(tokens, kHeads * kHeadDim), k = Bf16(tokens, kKvHeads * kHeadDim);
  const Tensor v = k.Clone(), dout = q.Clone();
  Tensor out = q.Clone(), log_sum_exp = F32(kHeads, tokens);
  // Two products forward, five backward, half of each by causality.
  const double product = 2.0 * tokens * kDocumentTokens / 2 * kHeads * kHeadDim;
  PLAIT_RETURN_IF_ERROR(timer.Time<AttentionForwardArgs>("attention_forward", shape, 2 * product,
                                                         2.0 * q.bytes() + 2.0 * k.bytes(),
                                                         AttentionForwardImplementations(),
                                                         {.layout = layout,
                                                          .q = q.matrix(),
                                                          .k = k.matrix(),
                                                          .v = v.matrix(),
                                                          .out = out.matrix(),
                                                          .log_sum_exp = log_sum_exp.matrix()}));
  Tensor dq = q.Clone(), dk = k.Clone(), dv = k.Clone();
  return timer.Time<AttentionBackwardArgs>("attention_backward", shape, 5 * product,
                                           4.0 * q.bytes() + 4.0 * k.bytes(),
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

absl::Status TimeTokenCrossEntropy(KernelTimer& timer) {
  constexpr int64_t kRows = 512;
  Tensor logits = F32(kRows, kVocabulary);
  const std::vector<int32_t> targets(kRows, 7);
  const Tensor coefficient = F32(kRows);
  Tensor log_probability = F32(kRows), dlogits = Bf16(kRows, kVocabulary);
  return timer.Time<TokenCrossEntropyArgs>(
      "token_cross_entropy", "512 tokens, vocabulary 8192, f32 to bf16", 0,
      logits.bytes() + dlogits.bytes(), TokenCrossEntropyImplementations(),
      {.logits = logits.matrix(),
       .targets = targets.data(),
       .log_probability = log_probability.vector(),
       .coefficient = coefficient.vector(),
       .dlogits = dlogits.matrix()});
}

absl::Status TimeAdamW(KernelTimer& timer) {
  constexpr int64_t kElements = 1 << 21;
  Tensor parameter = F32(kElements), first = Tensor::OnHost(DType::kF32, {kElements});
  Tensor second = first.Clone(), compute = Random(DType::kBf16, {kElements});
  const Tensor gradient = F32(kElements);
  return timer.Time<AdamWUpdateArgs>("adamw_update", "2097152 elements, f32 to bf16", 0,
                                     7.0 * parameter.bytes() + compute.bytes(),
                                     AdamWUpdateImplementations(),
                                     {.parameter = parameter.vector(),
                                      .gradient = gradient.vector(),
                                      .first_moment = first.vector(),
                                      .second_moment = second.vector(),
                                      .compute = compute.vector(),
                                      .learning_rate = 1e-4});
}

}  // namespace

absl::Status TimeKernels(KernelTimer& timer, int64_t tokens) {
  PLAIT_RETURN_IF_ERROR(TimeMatmul(timer, tokens));
  PLAIT_RETURN_IF_ERROR(TimeGroupedMatmul(timer, tokens));
  PLAIT_RETURN_IF_ERROR(TimeRmsNorm(timer, tokens));
  PLAIT_RETURN_IF_ERROR(TimeGatedActivation(timer, tokens));
  PLAIT_RETURN_IF_ERROR(TimeCausalConvolution(timer, tokens));
  PLAIT_RETURN_IF_ERROR(TimeSelectiveScan(timer, tokens));
  PLAIT_RETURN_IF_ERROR(TimeAttention(timer, tokens));
  PLAIT_RETURN_IF_ERROR(TimeTokenCrossEntropy(timer));
  return TimeAdamW(timer);
}

}  // namespace plait
