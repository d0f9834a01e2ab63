// SwiGLU. Formulas and shapes: gated_activation_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/gated_activation_args.h"
#include "kernels/implementation.h"

namespace plait {

absl::Status GatedActivationForward(Execution& execution, const GatedActivationForwardArgs& args);
absl::Status GatedActivationBackward(Execution& execution, const GatedActivationBackwardArgs& args);

std::span<const Implementation<GatedActivationForwardArgs>> GatedActivationForwardImplementations();
std::span<const Implementation<GatedActivationBackwardArgs>>
GatedActivationBackwardImplementations();

}  // namespace plait
