// SwiGLU's gate on a CUDA device, for bf16, f32 and f64. One vector of a row a thread; where there
// are row weights, the backward gives a row to a warp or block, whose sum is the weight's gradient.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/gated_activation_args.h"

namespace plait::cuda {

std::string AcceptsGatedActivationForward(const GatedActivationForwardArgs& args);
absl::Status GatedActivationForward(Execution& execution, const GatedActivationForwardArgs& args);
std::string AcceptsGatedActivationBackward(const GatedActivationBackwardArgs& args);
absl::Status GatedActivationBackward(Execution& execution, const GatedActivationBackwardArgs& args);

}  // namespace plait::cuda
