#include "kernels/expert_routing.h"

#include <limits>

#include "kernels/cpu/expert_routing.h"
#include "kernels/cuda/expert_routing.h"
#include "kernels/reference/expert_routing.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<RouterForwardArgs> kRouterForward[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsRouterForward, cpu::RouterForward},
    {"reference", DeviceKind::kCpu, AcceptsAll<RouterForwardArgs>, reference::RouterForward},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsRouterForward, cuda::RouterForward},
};
constexpr Implementation<RouterBackwardArgs> kRouterBackward[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsRouterBackward, cpu::RouterBackward},
    {"reference", DeviceKind::kCpu, AcceptsAll<RouterBackwardArgs>, reference::RouterBackward},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsRouterBackward, cuda::RouterBackward},
};
constexpr Implementation<ExpertPermutationArgs> kExpertPermutation[] = {
    {"threaded", DeviceKind::kCpu, AcceptsAll<ExpertPermutationArgs>, cpu::ExpertPermutation},
    {"reference", DeviceKind::kCpu, AcceptsAll<ExpertPermutationArgs>,
     reference::ExpertPermutation},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsExpertPermutation, cuda::ExpertPermutation},
};
constexpr Implementation<CombineRowsArgs> kCombineRows[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsCombineRows, cpu::CombineRows},
    {"reference", DeviceKind::kCpu, AcceptsAll<CombineRowsArgs>, reference::CombineRows},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsCombineRows, cuda::CombineRows},
};

absl::Status CheckExpertsPerToken(int64_t experts_per_token, int64_t experts) {
  if (experts_per_token >= 1 && experts_per_token <= experts) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("experts_per_token: expected 1 to ", experts,
                                                 " experts, got ", experts_per_token));
}

// Host values from `first` on, fewer than `limit` past it; device memory is not looked at.
absl::Status CheckIndices(const Execution& execution, absl::string_view name, const int32_t* values,
                          int64_t size, int64_t limit, int64_t first = 0) {
  if (size > 0 && values == nullptr)
    return absl::InvalidArgumentError(absl::StrCat(name, ": no data"));
  if (execution.device().kind != DeviceKind::kCpu) return absl::OkStatus();
  for (int64_t i = 0; i < size; ++i) {
    if (values[i] < first || values[i] - first >= limit) {
      return absl::InvalidArgumentError(absl::StrCat(name, "[", i, "]: expected ", first, " to ",
                                                     first + limit - 1, ", got ", values[i]));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::span<const Implementation<RouterForwardArgs>> RouterForwardImplementations() {
  return kRouterForward;
}
std::span<const Implementation<RouterBackwardArgs>> RouterBackwardImplementations() {
  return kRouterBackward;
}
std::span<const Implementation<ExpertPermutationArgs>> ExpertPermutationImplementations() {
  return kExpertPermutation;
}
std::span<const Implementation<CombineRowsArgs>> CombineRowsImplementations() {
  return kCombineRows;
}

absl::Status RouterForward(Execution& execution, const RouterForwardArgs& args) {
  const int64_t tokens = args.logits.rows, experts = args.logits.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("logits", args.logits, tokens, experts));
  PLAIT_RETURN_IF_ERROR(CheckExpertsPerToken(args.experts_per_token, experts));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("probabilities", args.probabilities, tokens, experts));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("weights", args.weights, tokens, args.experts_per_token));
  PLAIT_RETURN_IF_ERROR(CheckVector("log_sum_exp", args.log_sum_exp, tokens));
  if (tokens == 0) return absl::OkStatus();
  if (args.choices == nullptr) return absl::InvalidArgumentError("choices: no data");
  return RunFirstAccepted(execution, "router forward", RouterForwardImplementations(), args);
}

absl::Status RouterBackward(Execution& execution, const RouterBackwardArgs& args) {
  const int64_t tokens = args.probabilities.rows, experts = args.probabilities.columns;
  const int64_t chosen = args.dweights.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("probabilities", args.probabilities, tokens, experts));
  PLAIT_RETURN_IF_ERROR(CheckExpertsPerToken(chosen, experts));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dweights", args.dweights, tokens, chosen));
  PLAIT_RETURN_IF_ERROR(CheckVector("real", args.real, tokens));
  PLAIT_RETURN_IF_ERROR(CheckVector("log_sum_exp", args.log_sum_exp, tokens));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dlogits", args.dlogits, tokens, experts));
  if (args.balance_gradient) {
    PLAIT_RETURN_IF_ERROR(CheckVector("balance_gradient", args.balance_gradient, experts));
  }
  PLAIT_RETURN_IF_ERROR(CheckIndices(execution, "choices", args.choices, tokens * chosen, experts));
  if (tokens == 0) return absl::OkStatus();
  return RunFirstAccepted(execution, "router backward", RouterBackwardImplementations(), args);
}

absl::Status ExpertPermutation(Execution& execution, const ExpertPermutationArgs& args) {
  PLAIT_RETURN_IF_ERROR(CheckExpertsPerToken(args.experts_per_token, args.experts));
  const int64_t rows = args.tokens * args.experts_per_token;
  if (rows > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tokens x experts_per_token = ", rows, " does not fit 31 bits; use smaller microbatches"));
  }
  if (args.offsets == nullptr) return absl::InvalidArgumentError("offsets: no data");
  if (rows > 0 && (args.row_token == nullptr || args.token_row == nullptr)) {
    return absl::InvalidArgumentError("row_token, token_row: no data");
  }
  PLAIT_RETURN_IF_ERROR(CheckIndices(execution, "choices", args.choices, rows, args.experts));
  return RunFirstAccepted(execution, "expert permutation", ExpertPermutationImplementations(),
                          args);
}

absl::Status CombineRows(Execution& execution, const CombineRowsArgs& args) {
  const int64_t tokens = args.out.rows, dim = args.out.columns;
  const int64_t rows = tokens * args.experts_per_token;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("out", args.out, tokens, dim));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("rows", args.rows, rows, dim));
  PLAIT_RETURN_IF_ERROR(
      CheckIndices(execution, "token_row", args.token_row, rows, rows, args.first_row));
  if (tokens == 0 || dim == 0) return absl::OkStatus();
  return RunFirstAccepted(execution, "combine rows", CombineRowsImplementations(), args);
}

}  // namespace plait
