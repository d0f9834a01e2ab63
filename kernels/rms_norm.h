// RMSNorm. Formulas, shapes and what is overwritten: rms_norm_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/implementation.h"
#include "kernels/rms_norm_args.h"

namespace plait {

// InvalidArgument where shapes do not agree.
absl::Status RmsNormForward(Execution& execution, const RmsNormForwardArgs& args);
absl::Status RmsNormBackward(Execution& execution, const RmsNormBackwardArgs& args);

std::span<const Implementation<RmsNormForwardArgs>> RmsNormForwardImplementations();
std::span<const Implementation<RmsNormBackwardArgs>> RmsNormBackwardImplementations();

}  // namespace plait
