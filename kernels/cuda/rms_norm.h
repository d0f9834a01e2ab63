// RMSNorm on a CUDA device, for bf16, f32 and f64. One block a row, held in registers where it is
// narrow; the weight's gradient from blocks that walk over rows, summed in a fixed order.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/rms_norm_args.h"

namespace plait::cuda {

std::string AcceptsRmsNormForward(const RmsNormForwardArgs& args);
absl::Status RmsNormForward(Execution& execution, const RmsNormForwardArgs& args);
std::string AcceptsRmsNormBackward(const RmsNormBackwardArgs& args);
absl::Status RmsNormBackward(Execution& execution, const RmsNormBackwardArgs& args);

}  // namespace plait::cuda
