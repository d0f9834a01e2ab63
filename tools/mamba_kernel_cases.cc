#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/causal_convolution.h"
#include "kernels/selective_scan.h"
#include "kernels/selective_scan_summary.h"
#include "tools/kernel_cases.h"
#include "tools/kernel_operands.h"

namespace plait {

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

namespace {

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

}  // namespace

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

}  // namespace plait
