#include "kernels/rms_norm.h"

#include "kernels/cpu/rms_norm.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/reference/rms_norm.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<RmsNormForwardArgs> kForward[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsRmsNormForward, cpu::RmsNormForward},
    {"reference", DeviceKind::kCpu, AcceptsAll<RmsNormForwardArgs>, reference::RmsNormForward},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsRmsNormForward, cuda::RmsNormForward},
};
constexpr Implementation<RmsNormBackwardArgs> kBackward[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsRmsNormBackward, cpu::RmsNormBackward},
    {"reference", DeviceKind::kCpu, AcceptsAll<RmsNormBackwardArgs>, reference::RmsNormBackward},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsRmsNormBackward, cuda::RmsNormBackward},
};

}  // namespace

std::span<const Implementation<RmsNormForwardArgs>> RmsNormForwardImplementations() {
  return kForward;
}
std::span<const Implementation<RmsNormBackwardArgs>> RmsNormBackwardImplementations() {
  return kBackward;
}

absl::Status RmsNormForward(Execution& execution, const RmsNormForwardArgs& args) {
  const int64_t tokens = args.x.rows, dim = args.x.columns;
  PLAIT_RETURN_IF_ERROR(CheckVector("weight", args.weight, dim));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("y", args.y, tokens, dim));
  if (args.residual) {
    PLAIT_RETURN_IF_ERROR(CheckMatrix("residual", args.residual, tokens, dim));
    PLAIT_RETURN_IF_ERROR(CheckMatrix("sum", args.sum, tokens, dim));
  }
  for (const VectorView& view :
       {args.inverse_rms, args.activation_square_sum, args.activation_absolute_max}) {
    if (view) PLAIT_RETURN_IF_ERROR(CheckVector("per-token output", view, tokens));
  }
  return RunFirstAccepted(execution, "rms_norm forward", RmsNormForwardImplementations(), args);
}

absl::Status RmsNormBackward(Execution& execution, const RmsNormBackwardArgs& args) {
  const int64_t tokens = args.r.rows, dim = args.r.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dy", args.dy, tokens, dim));
  PLAIT_RETURN_IF_ERROR(CheckVector("weight", args.weight, dim));
  PLAIT_RETURN_IF_ERROR(CheckVector("inverse_rms", args.inverse_rms, tokens));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dr", args.dr, tokens, dim));
  if (args.dr_in) PLAIT_RETURN_IF_ERROR(CheckMatrix("dr_in", args.dr_in, tokens, dim));
  PLAIT_RETURN_IF_ERROR(CheckVector("dweight", args.dweight, dim));
  return RunFirstAccepted(execution, "rms_norm backward", RmsNormBackwardImplementations(), args);
}

}  // namespace plait
