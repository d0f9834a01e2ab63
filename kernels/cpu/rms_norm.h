// SIMD RMSNorm for bf16 and f32.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/rms_norm_args.h"

namespace plait::cpu {

std::string AcceptsRmsNormForward(const RmsNormForwardArgs& args);
absl::Status RmsNormForward(Execution& execution, const RmsNormForwardArgs& args);
std::string AcceptsRmsNormBackward(const RmsNormBackwardArgs& args);
absl::Status RmsNormBackward(Execution& execution, const RmsNormBackwardArgs& args);

}  // namespace plait::cpu
