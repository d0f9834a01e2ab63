#include "kernels/selective_scan.h"

#include "kernels/cpu/selective_scan.h"
#include "kernels/cuda/selective_scan.h"
#include "kernels/reference/selective_scan.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<SelectiveScanForwardArgs> kForward[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsSelectiveScanForward, cpu::SelectiveScanForward},
    {"reference", DeviceKind::kCpu, AcceptsAll<SelectiveScanForwardArgs>,
     reference::SelectiveScanForward},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsSelectiveScanForward, cuda::SelectiveScanForward},
};
constexpr Implementation<SelectiveScanBackwardArgs> kBackward[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsSelectiveScanBackward, cpu::SelectiveScanBackward},
    {"reference", DeviceKind::kCpu, AcceptsAll<SelectiveScanBackwardArgs>,
     reference::SelectiveScanBackward},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsSelectiveScanBackward, cuda::SelectiveScanBackward},
};

absl::Status CheckInputs(const SelectiveScanInputs& in) {
  const int64_t tokens = in.x.rows, channels = in.x.columns, states = in.b.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("x", in.x, tokens, channels));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dt", in.dt, tokens, channels));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("z", in.z, tokens, channels));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("b", in.b, tokens, states));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("c", in.c, tokens, states));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("a_log", in.a_log, channels, states));
  PLAIT_RETURN_IF_ERROR(CheckVector("d", in.d, channels));
  PLAIT_RETURN_IF_ERROR(CheckVector("dt_bias", in.dt_bias, channels));
  return CheckDocumentOffsets("document_offsets", in.document_offsets, in.documents, tokens);
}

// Matrices of x's shape and dtype.
absl::Status CheckLike(absl::string_view name, const ConstMatrixView& view,
                       const ConstMatrixView& x) {
  PLAIT_RETURN_IF_ERROR(CheckMatrix(name, view, x.rows, x.columns));
  return CheckDType(name, view.dtype, x.dtype);
}

// A state of every document, where it is there.
absl::Status CheckState(absl::string_view name, const ConstMatrixView& state,
                        const SelectiveScanInputs& in) {
  if (!state) return absl::OkStatus();
  return CheckMatrix(name, state, in.documents * in.b.columns, in.x.columns);
}

}  // namespace

std::span<const Implementation<SelectiveScanForwardArgs>> SelectiveScanForwardImplementations() {
  return kForward;
}
std::span<const Implementation<SelectiveScanBackwardArgs>> SelectiveScanBackwardImplementations() {
  return kBackward;
}

absl::Status SelectiveScanForward(Execution& execution, const SelectiveScanForwardArgs& args) {
  const SelectiveScanInputs& in = args.in;
  PLAIT_RETURN_IF_ERROR(CheckInputs(in));
  const int64_t tokens = in.x.rows, channels = in.x.columns, states = in.b.columns;
  PLAIT_RETURN_IF_ERROR(CheckLike("y", args.y, in.x));
  if (args.checkpoints) {
    PLAIT_RETURN_IF_ERROR(CheckMatrix("checkpoints", args.checkpoints,
                                      NumSelectiveScanCheckpoints(tokens) * states, channels));
  }
  PLAIT_RETURN_IF_ERROR(CheckState("initial_state", args.initial_state, in));
  PLAIT_RETURN_IF_ERROR(CheckState("final_state", args.final_state, in));
  return RunFirstAccepted(execution, "selective_scan forward",
                          SelectiveScanForwardImplementations(), args);
}

absl::Status SelectiveScanBackward(Execution& execution, const SelectiveScanBackwardArgs& args) {
  const SelectiveScanInputs& in = args.in;
  PLAIT_RETURN_IF_ERROR(CheckInputs(in));
  const int64_t tokens = in.x.rows, channels = in.x.columns, states = in.b.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("checkpoints", args.checkpoints,
                                    NumSelectiveScanCheckpoints(tokens) * states, channels));
  PLAIT_RETURN_IF_ERROR(CheckLike("dy", args.dy, in.x));
  PLAIT_RETURN_IF_ERROR(CheckLike("dx", args.dx, in.x));
  PLAIT_RETURN_IF_ERROR(CheckLike("ddt", args.ddt, in.x));
  PLAIT_RETURN_IF_ERROR(CheckLike("dz", args.dz, in.x));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("db", args.db, tokens, states));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dc", args.dc, tokens, states));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("da_log", args.da_log, channels, states));
  PLAIT_RETURN_IF_ERROR(CheckVector("dd", args.dd, channels));
  PLAIT_RETURN_IF_ERROR(CheckVector("ddt_bias", args.ddt_bias, channels));
  PLAIT_RETURN_IF_ERROR(CheckState("initial_state", args.initial_state, in));
  PLAIT_RETURN_IF_ERROR(CheckState("dfinal_state", args.dfinal_state, in));
  PLAIT_RETURN_IF_ERROR(CheckState("dinitial_state", args.dinitial_state, in));
  return RunFirstAccepted(execution, "selective_scan backward",
                          SelectiveScanBackwardImplementations(), args);
}

}  // namespace plait
