#include "kernels/gated_activation.h"

#include "kernels/cpu/gated_activation.h"
#include "kernels/cuda/gated_activation.h"
#include "kernels/reference/gated_activation.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<GatedActivationForwardArgs> kForward[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsGatedActivationForward, cpu::GatedActivationForward},
    {"reference", DeviceKind::kCpu, AcceptsAll<GatedActivationForwardArgs>,
     reference::GatedActivationForward},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsGatedActivationForward, cuda::GatedActivationForward},
};
constexpr Implementation<GatedActivationBackwardArgs> kBackward[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsGatedActivationBackward, cpu::GatedActivationBackward},
    {"reference", DeviceKind::kCpu, AcceptsAll<GatedActivationBackwardArgs>,
     reference::GatedActivationBackward},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsGatedActivationBackward,
     cuda::GatedActivationBackward},
};

}  // namespace

std::span<const Implementation<GatedActivationForwardArgs>>
GatedActivationForwardImplementations() {
  return kForward;
}
std::span<const Implementation<GatedActivationBackwardArgs>>
GatedActivationBackwardImplementations() {
  return kBackward;
}

absl::Status GatedActivationForward(Execution& execution, const GatedActivationForwardArgs& args) {
  const int64_t rows = args.gate.rows, dim = args.gate.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("up", args.up, rows, dim));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("out", args.out, rows, dim));
  if (args.row_weight) PLAIT_RETURN_IF_ERROR(CheckVector("row_weight", args.row_weight, rows));
  return RunFirstAccepted(execution, "gated_activation forward",
                          GatedActivationForwardImplementations(), args);
}

absl::Status GatedActivationBackward(Execution& execution,
                                     const GatedActivationBackwardArgs& args) {
  const int64_t rows = args.gate.rows, dim = args.gate.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("up", args.up, rows, dim));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dout", args.dout, rows, dim));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dgate", args.dgate, rows, dim));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dup", args.dup, rows, dim));
  if (args.row_weight) PLAIT_RETURN_IF_ERROR(CheckVector("row_weight", args.row_weight, rows));
  if (args.drow_weight) {
    PLAIT_RETURN_IF_ERROR(CheckVector("drow_weight", args.drow_weight, rows));
    if (!args.row_weight)
      return absl::InvalidArgumentError(
          "drow_weight: there is no row_weight to be the gradient of");
  }
  return RunFirstAccepted(execution, "gated_activation backward",
                          GatedActivationBackwardImplementations(), args);
}

}  // namespace plait
