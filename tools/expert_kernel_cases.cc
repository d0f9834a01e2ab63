#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/expert_routing.h"
#include "kernels/gated_activation.h"
#include "kernels/grouped_matmul.h"
#include "tools/kernel_cases.h"
#include "tools/kernel_operands.h"

namespace plait {
namespace {

// Every expert gets as many rows as the others, give or take one.
std::vector<int32_t> EvenOffsets(int64_t rows, int64_t experts) {
  std::vector<int32_t> offsets;
  for (int64_t e = 0; e <= experts; ++e) {
    offsets.push_back(static_cast<int32_t>(rows * e / experts));
  }
  return offsets;
}

// The experts' first product, whose rows are gathered from those of the tokens: forward, gradient
// of the rows, gradient of the weights.
absl::Status TimeGatheredProduct(KernelTimer& timer, const KernelSizes& sizes, int64_t experts,
                                 int64_t k, int64_t n) {
  const int64_t tokens = sizes.tokens, rows = tokens * sizes.experts_per_token;
  const std::vector<int32_t> offsets = EvenOffsets(rows, experts);
  const std::string shape =
      Describe(sizes, sizes.experts_per_token, " of ", experts, " experts, ", k, " to ", n);
  Operands make(timer);
  const Tensor x = make.Bf16(tokens, k), w = make.Bf16(experts * n, k);
  // Of each expert tokens from the whole microbatch, rising.
  const Tensor row_token = make.Integers(rows, [&](int64_t row) {
    const auto next = std::upper_bound(offsets.begin(), offsets.end(), row);
    return (row - *(next - 1)) * tokens / (*next - *(next - 1));
  });
  Tensor y = make.Bf16(rows, n), dx = make.Bf16(rows, k), dw = make.F32(experts * n, k);
  PLAIT_RETURN_IF_ERROR(make.status());
  const double flops = 2.0 * Product(rows, n, k);
  PLAIT_RETURN_IF_ERROR(timer.Time<GroupedMatmulArgs>(
      "grouped_matmul", shape, {.bytes = Bytes({&x, &w, &y}), .flops = flops},
      GroupedMatmulImplementations(),
      {.a = x.matrix(),
       .row_index = row_token.data<int32_t>(),
       .offsets = offsets.data(),
       .groups = experts,
       .b = w.matrix(),
       .transpose_b = Transpose::kYes,
       .c = y.matrix()}));
  PLAIT_RETURN_IF_ERROR(timer.Time<GroupedWeightGradientArgs>(
      "grouped_weight_gradient", shape, {.bytes = Bytes({&x, &y, &dw, &dw}), .flops = flops},
      GroupedWeightGradientImplementations(),
      {.a = y.matrix(),
       .b = x.matrix(),
       .row_index = row_token.data<int32_t>(),
       .offsets = offsets.data(),
       .groups = experts,
       .c = dw.matrix()}));
  return timer.Time<GroupedMatmulArgs>("grouped_matmul_dgrad", shape,
                                       {.bytes = Bytes({&dx, &w, &y}), .flops = flops},
                                       GroupedMatmulImplementations(),
                                       {.a = y.matrix(),
                                        .offsets = offsets.data(),
                                        .groups = experts,
                                        .b = w.matrix(),
                                        .c = dx.matrix()});
}

// The second one, whose rows are in the experts' order.
absl::Status TimeSortedProduct(KernelTimer& timer, const KernelSizes& sizes, int64_t experts,
                               int64_t k, int64_t n) {
  const int64_t rows = sizes.tokens * sizes.experts_per_token;
  const std::vector<int32_t> offsets = EvenOffsets(rows, experts);
  Operands make(timer);
  const Tensor x = make.Bf16(rows, k), w = make.Bf16(experts * n, k);
  Tensor y = make.Bf16(rows, n);
  PLAIT_RETURN_IF_ERROR(make.status());
  return timer.Time<GroupedMatmulArgs>(
      "grouped_matmul",
      Describe(sizes, sizes.experts_per_token, " of ", experts, " experts, ", k, " to ", n),
      {.bytes = Bytes({&x, &w, &y}), .flops = 2.0 * Product(rows, n, k)},
      GroupedMatmulImplementations(),
      {.a = x.matrix(),
       .offsets = offsets.data(),
       .groups = experts,
       .b = w.matrix(),
       .transpose_b = Transpose::kYes,
       .c = y.matrix()});
}

}  // namespace

// Coarse experts and fine ones: each has its own best implementation.
absl::Status TimeGroupedMatmul(KernelTimer& timer, const KernelSizes& sizes) {
  for (const auto& [experts, dim, hidden] :
       {std::array{sizes.experts, sizes.model_dim, sizes.hidden_dim},
        std::array{sizes.fine_experts, sizes.fine_dim, sizes.fine_hidden_dim}}) {
    PLAIT_RETURN_IF_ERROR(TimeGatheredProduct(timer, sizes, experts, dim, 2 * hidden));
    timer.execution().allocator().Trim();
    PLAIT_RETURN_IF_ERROR(TimeSortedProduct(timer, sizes, experts, hidden, dim));
    timer.execution().allocator().Trim();
  }
  return absl::OkStatus();
}

absl::Status TimeExpertRouting(KernelTimer& timer, const KernelSizes& sizes) {
  const int64_t tokens = sizes.tokens, experts = sizes.routed_experts;
  const int64_t chosen = sizes.experts_per_token, rows = tokens * chosen;
  const std::string shape =
      absl::StrCat(tokens, " tokens, ", chosen, " of ", experts, " experts, f32");
  Operands make(timer);
  const Tensor logits = make.F32(tokens, experts), dweights = make.F32(tokens, chosen);
  const Tensor balance_gradient = make.F32(experts);
  const Tensor real = make.F32(tokens, [](int64_t) { return 1.0f; });
  Tensor probabilities = make.F32(tokens, experts), weights = make.F32(tokens, chosen);
  Tensor log_sum_exp = make.F32(tokens), dlogits = make.F32(tokens, experts);
  Tensor choices = make.Integers(rows, [&](int64_t i) { return i % experts; });
  Tensor offsets = make.Integers(experts + 1, [](int64_t) { return 0; });
  Tensor row_token = make.Integers(rows, [&](int64_t i) { return i / chosen; });
  Tensor token_row = make.Integers(rows, [](int64_t i) { return i; });
  PLAIT_RETURN_IF_ERROR(make.status());
  PLAIT_RETURN_IF_ERROR(timer.Time<RouterForwardArgs>(
      "router_forward", shape,
      {.bytes = Bytes({&logits, &probabilities, &weights, &choices, &log_sum_exp})},
      RouterForwardImplementations(),
      {.logits = logits.matrix(),
       .experts_per_token = chosen,
       .probabilities = probabilities.matrix(),
       .weights = weights.matrix(),
       .choices = choices.data<int32_t>(),
       .log_sum_exp = log_sum_exp.vector()}));
  PLAIT_RETURN_IF_ERROR(timer.Time<RouterBackwardArgs>(
      "router_backward", shape,
      {.bytes = Bytes({&probabilities, &choices, &dweights, &real, &log_sum_exp, &dlogits})},
      RouterBackwardImplementations(),
      {.probabilities = probabilities.matrix(),
       .choices = choices.data<int32_t>(),
       .dweights = dweights.matrix(),
       .real = real.vector(),
       .balance_gradient = balance_gradient.vector(),
       .z_coefficient = 1e-3 / static_cast<double>(tokens),
       .log_sum_exp = log_sum_exp.vector(),
       .dlogits = dlogits.matrix()}));
  PLAIT_RETURN_IF_ERROR(timer.Time<ExpertPermutationArgs>(
      "expert_permutation", shape, {.bytes = Bytes({&choices, &offsets, &row_token, &token_row})},
      ExpertPermutationImplementations(),
      {.choices = choices.data<int32_t>(),
       .tokens = tokens,
       .experts_per_token = chosen,
       .experts = experts,
       .offsets = offsets.data<int32_t>(),
       .row_token = row_token.data<int32_t>(),
       .token_row = token_row.data<int32_t>()}));
  const Tensor sorted = make.Bf16(rows, sizes.model_dim);
  Tensor out = make.Bf16(tokens, sizes.model_dim);
  PLAIT_RETURN_IF_ERROR(make.status());
  return timer.Time<CombineRowsArgs>(
      "combine_rows", Describe(sizes, chosen, " rows each, ", sizes.model_dim, " wide"),
      {.bytes = Bytes({&sorted, &token_row, &out})}, CombineRowsImplementations(),
      {.rows = sorted.matrix(),
       .token_row = token_row.data<int32_t>(),
       .experts_per_token = chosen,
       .out = out.matrix()});
}

// SwiGLU of the experts' rows, each with its router's weight.
absl::Status TimeWeightedActivation(KernelTimer& timer, const KernelSizes& sizes) {
  const int64_t rows = sizes.tokens * sizes.experts_per_token, dim = sizes.hidden_dim;
  const std::string shape =
      Describe(sizes, sizes.experts_per_token, " weighted rows each, ", dim, " wide");
  Operands make(timer);
  const Tensor gate = make.Bf16(rows, dim), up = make.Bf16(rows, dim);
  const Tensor dout = make.Bf16(rows, dim), weight = make.F32(rows);
  Tensor out = make.Bf16(rows, dim), dgate = make.Bf16(rows, dim), dweight = make.F32(rows);
  PLAIT_RETURN_IF_ERROR(make.status());
  PLAIT_RETURN_IF_ERROR(timer.Time<GatedActivationForwardArgs>(
      "gated_activation_forward", shape, {.bytes = Bytes({&gate, &up, &out})},
      GatedActivationForwardImplementations(),
      {.gate = gate.matrix(),
       .up = up.matrix(),
       .row_weight = weight.vector(),
       .out = out.matrix()}));
  return timer.Time<GatedActivationBackwardArgs>(
      "gated_activation_backward", shape, {.bytes = Bytes({&gate, &up, &dout, &dgate, &out})},
      GatedActivationBackwardImplementations(),
      {.gate = gate.matrix(),
       .up = up.matrix(),
       .row_weight = weight.vector(),
       .dout = dout.matrix(),
       .dgate = dgate.matrix(),
       .dup = out.matrix(),
       .drow_weight = dweight.vector()});
}

}  // namespace plait
