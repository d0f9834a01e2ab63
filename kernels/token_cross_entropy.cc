#include "kernels/token_cross_entropy.h"

#include "kernels/cpu/token_cross_entropy.h"
#include "kernels/cuda/token_cross_entropy.h"
#include "kernels/reference/element.h"
#include "kernels/reference/token_cross_entropy.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<TokenCrossEntropyArgs> kImplementations[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsTokenCrossEntropy, cpu::TokenCrossEntropy},
    {"reference", DeviceKind::kCpu, AcceptsAll<TokenCrossEntropyArgs>,
     reference::TokenCrossEntropy},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsTokenCrossEntropy, cuda::TokenCrossEntropy},
};

// On a device targets are not looked at: whoever moved them there has.
absl::Status CheckTargets(const Execution& execution, const TokenCrossEntropyArgs& args) {
  const int64_t rows = args.logits.rows, vocabulary = args.logits.columns;
  if (args.targets == nullptr && rows > 0) return absl::InvalidArgumentError("targets: no data");
  if (execution.device().kind != DeviceKind::kCpu) return absl::OkStatus();
  // A part of a vocabulary leaves the other parts' targets to them.
  if (args.target_logit || args.given_log_sum_exp) return absl::OkStatus();
  for (int64_t t = 0; t < rows; ++t) {
    const int32_t target = args.targets[t];
    if (target >= 0 && target < vocabulary) continue;
    const bool is_needed =
        args.coefficient ? reference::Get(args.coefficient, t) != 0 : target >= 0;
    if (is_needed) {
      return absl::InvalidArgumentError(
          absl::StrCat("targets[", t, "]: expected an id in [0, ", vocabulary, "), got ", target,
                       "; a token without a target needs coefficient 0"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::span<const Implementation<TokenCrossEntropyArgs>> TokenCrossEntropyImplementations() {
  return kImplementations;
}

absl::Status TokenCrossEntropy(Execution& execution, const TokenCrossEntropyArgs& args) {
  const int64_t rows = args.logits.rows, vocabulary = args.logits.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("logits", args.logits, rows, vocabulary));
  if (args.log_probability)
    PLAIT_RETURN_IF_ERROR(CheckVector("log_probability", args.log_probability, rows));
  if (args.log_sum_exp) PLAIT_RETURN_IF_ERROR(CheckVector("log_sum_exp", args.log_sum_exp, rows));
  if (args.target_logit)
    PLAIT_RETURN_IF_ERROR(CheckVector("target_logit", args.target_logit, rows));
  if (args.given_log_sum_exp) {
    PLAIT_RETURN_IF_ERROR(CheckVector("given_log_sum_exp", args.given_log_sum_exp, rows));
    if (args.log_sum_exp)
      return absl::InvalidArgumentError("log_sum_exp: expected none where it is given");
  }
  if (args.coefficient || args.dlogits) {
    PLAIT_RETURN_IF_ERROR(CheckVector("coefficient", args.coefficient, rows));
    PLAIT_RETURN_IF_ERROR(CheckMatrix("dlogits", args.dlogits, rows, vocabulary));
    if (args.dlogits.data == args.logits.data)
      PLAIT_RETURN_IF_ERROR(
          CheckDType("dlogits in the memory of logits", args.dlogits.dtype, args.logits.dtype));
  }
  PLAIT_RETURN_IF_ERROR(CheckTargets(execution, args));
  return RunFirstAccepted(execution, "token_cross_entropy", TokenCrossEntropyImplementations(),
                          args);
}

}  // namespace plait
