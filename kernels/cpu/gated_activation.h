// SIMD SwiGLU for bf16 and f32.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/gated_activation_args.h"

namespace plait::cpu {

std::string AcceptsGatedActivationForward(const GatedActivationForwardArgs& args);
absl::Status GatedActivationForward(Execution& execution, const GatedActivationForwardArgs& args);
std::string AcceptsGatedActivationBackward(const GatedActivationBackwardArgs& args);
absl::Status GatedActivationBackward(Execution& execution, const GatedActivationBackwardArgs& args);

}  // namespace plait::cpu
