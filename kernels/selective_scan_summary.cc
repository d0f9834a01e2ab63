#include "kernels/selective_scan_summary.h"

#include "kernels/cpu/selective_scan_summary.h"
#include "kernels/cuda/selective_scan_summary.h"
#include "kernels/reference/selective_scan_summary.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<SelectiveScanSummaryForwardArgs> kForward[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsSelectiveScanSummaryForward,
     cpu::SelectiveScanSummaryForward},
    {"reference", DeviceKind::kCpu, AcceptsAll<SelectiveScanSummaryForwardArgs>,
     reference::SelectiveScanSummaryForward},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsSelectiveScanSummaryForward,
     cuda::SelectiveScanSummaryForward},
};
constexpr Implementation<SelectiveScanSummaryBackwardArgs> kBackward[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsSelectiveScanSummaryBackward,
     cpu::SelectiveScanSummaryBackward},
    {"reference", DeviceKind::kCpu, AcceptsAll<SelectiveScanSummaryBackwardArgs>,
     reference::SelectiveScanSummaryBackward},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsSelectiveScanSummaryBackward,
     cuda::SelectiveScanSummaryBackward},
};
constexpr Implementation<SelectiveScanCarryArgs> kCarry[] = {
    {"simd", DeviceKind::kCpu, cpu::AcceptsSelectiveScanCarry, cpu::SelectiveScanCarry},
    {"reference", DeviceKind::kCpu, AcceptsAll<SelectiveScanCarryArgs>,
     reference::SelectiveScanCarry},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsSelectiveScanCarry, cuda::SelectiveScanCarry},
};

}  // namespace

std::span<const Implementation<SelectiveScanSummaryForwardArgs>>
SelectiveScanSummaryForwardImplementations() {
  return kForward;
}
std::span<const Implementation<SelectiveScanSummaryBackwardArgs>>
SelectiveScanSummaryBackwardImplementations() {
  return kBackward;
}
std::span<const Implementation<SelectiveScanCarryArgs>> SelectiveScanCarryImplementations() {
  return kCarry;
}

absl::Status SelectiveScanSummaryForward(Execution& execution,
                                         const SelectiveScanSummaryForwardArgs& args) {
  const int64_t tokens = args.x.rows, channels = args.x.columns, states = args.b.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("x", args.x, tokens, channels));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dt", args.dt, tokens, channels));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("b", args.b, tokens, states));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("a_log", args.a_log, channels, states));
  PLAIT_RETURN_IF_ERROR(CheckVector("dt_bias", args.dt_bias, channels));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("final_state", args.final_state, states, channels));
  PLAIT_RETURN_IF_ERROR(CheckVector("delta_sum", args.delta_sum, channels));
  return RunFirstAccepted(execution, "selective_scan_summary forward",
                          SelectiveScanSummaryForwardImplementations(), args);
}

absl::Status SelectiveScanSummaryBackward(Execution& execution,
                                          const SelectiveScanSummaryBackwardArgs& args) {
  const int64_t tokens = args.dt.rows, channels = args.dt.columns, states = args.c.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dt", args.dt, tokens, channels));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("z", args.z, tokens, channels));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("c", args.c, tokens, states));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dy", args.dy, tokens, channels));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("a_log", args.a_log, channels, states));
  PLAIT_RETURN_IF_ERROR(CheckVector("dt_bias", args.dt_bias, channels));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("dinitial_state", args.dinitial_state, states, channels));
  PLAIT_RETURN_IF_ERROR(CheckVector("delta_sum", args.delta_sum, channels));
  return RunFirstAccepted(execution, "selective_scan_summary backward",
                          SelectiveScanSummaryBackwardImplementations(), args);
}

absl::Status SelectiveScanCarry(Execution& execution, const SelectiveScanCarryArgs& args) {
  const int64_t channels = args.a_log.rows, states = args.a_log.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("a_log", args.a_log, channels, states));
  PLAIT_RETURN_IF_ERROR(CheckVector("delta_sum", args.delta_sum, channels));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("local", args.local, states, channels));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("state", args.state, states, channels));
  return RunFirstAccepted(execution, "selective_scan_carry", SelectiveScanCarryImplementations(),
                          args);
}

}  // namespace plait
