#include "kernels/causal_convolution.h"

#include "kernels/cpu/causal_convolution.h"
#include "kernels/cuda/causal_convolution.h"
#include "kernels/reference/causal_convolution.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<CausalConvolutionForwardArgs> kForward[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsCausalConvolutionForward, cpu::CausalConvolutionForward},
    {"reference", DeviceKind::kCpu, AcceptsAll<CausalConvolutionForwardArgs>,
     reference::CausalConvolutionForward},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsCausalConvolutionForward,
     cuda::CausalConvolutionForward},
};
constexpr Implementation<CausalConvolutionBackwardArgs> kBackward[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsCausalConvolutionBackward,
     cpu::CausalConvolutionBackward},
    {"reference", DeviceKind::kCpu, AcceptsAll<CausalConvolutionBackwardArgs>,
     reference::CausalConvolutionBackward},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsCausalConvolutionBackward,
     cuda::CausalConvolutionBackward},
};

absl::Status CheckWeight(const ConstMatrixView& weight, const ConstVectorView& bias,
                         int64_t channels) {
  if (weight.columns < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("weight: expected a width of at least 1, got ", weight.columns));
  }
  PLAIT_RETURN_IF_ERROR(CheckMatrix("weight", weight, channels, weight.columns));
  if (bias) PLAIT_RETURN_IF_ERROR(CheckVector("bias", bias, channels));
  return absl::OkStatus();
}

}  // namespace

std::span<const Implementation<CausalConvolutionForwardArgs>>
CausalConvolutionForwardImplementations() {
  return kForward;
}
std::span<const Implementation<CausalConvolutionBackwardArgs>>
CausalConvolutionBackwardImplementations() {
  return kBackward;
}

absl::Status CausalConvolutionForward(Execution& execution,
                                      const CausalConvolutionForwardArgs& args) {
  const int64_t tokens = args.x.rows, channels = args.x.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("x", args.x, tokens, channels));
  PLAIT_RETURN_IF_ERROR(CheckWeight(args.weight, args.bias, channels));
  PLAIT_RETURN_IF_ERROR(
      CheckDocumentOffsets("document_offsets", args.document_offsets, args.documents, tokens));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("y", args.y, tokens, channels));
  PLAIT_RETURN_IF_ERROR(CheckDType("y", args.y.dtype, args.x.dtype));
  const int64_t history = args.documents * (args.weight.columns - 1);
  if (args.initial_state) {
    PLAIT_RETURN_IF_ERROR(CheckMatrix("initial_state", args.initial_state, history, channels));
    PLAIT_RETURN_IF_ERROR(CheckDType("initial_state", args.initial_state.dtype, args.x.dtype));
  }
  if (args.final_state) {
    PLAIT_RETURN_IF_ERROR(CheckMatrix("final_state", args.final_state, history, channels));
    PLAIT_RETURN_IF_ERROR(CheckDType("final_state", args.final_state.dtype, args.x.dtype));
  }
  return RunFirstAccepted(execution, "causal_convolution forward",
                          CausalConvolutionForwardImplementations(), args);
}

absl::Status CausalConvolutionBackward(Execution& execution,
                                       const CausalConvolutionBackwardArgs& args) {
  const int64_t tokens = args.x.rows, channels = args.x.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("x", args.x, tokens, channels));
  PLAIT_RETURN_IF_ERROR(CheckWeight(args.weight, args.bias, channels));
  PLAIT_RETURN_IF_ERROR(
      CheckDocumentOffsets("document_offsets", args.document_offsets, args.documents, tokens));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dy", args.dy, tokens, channels));
  PLAIT_RETURN_IF_ERROR(CheckDType("dy", args.dy.dtype, args.x.dtype));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dx", args.dx, tokens, channels));
  PLAIT_RETURN_IF_ERROR(CheckDType("dx", args.dx.dtype, args.x.dtype));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dweight", args.dweight, channels, args.weight.columns));
  if (args.dbias) PLAIT_RETURN_IF_ERROR(CheckVector("dbias", args.dbias, channels));
  const int64_t history = args.documents * (args.weight.columns - 1);
  if (args.initial_state) {
    PLAIT_RETURN_IF_ERROR(CheckMatrix("initial_state", args.initial_state, history, channels));
    PLAIT_RETURN_IF_ERROR(CheckDType("initial_state", args.initial_state.dtype, args.x.dtype));
  }
  if (args.dfinal_state) {
    PLAIT_RETURN_IF_ERROR(CheckMatrix("dfinal_state", args.dfinal_state, history, channels));
  }
  if (args.dinitial_state) {
    PLAIT_RETURN_IF_ERROR(CheckMatrix("dinitial_state", args.dinitial_state, history, channels));
  }
  return RunFirstAccepted(execution, "causal_convolution backward",
                          CausalConvolutionBackwardImplementations(), args);
}

}  // namespace plait
