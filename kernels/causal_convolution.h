// Causal depthwise convolution with SiLU. Formulas and shapes: causal_convolution_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/causal_convolution_args.h"
#include "kernels/implementation.h"

namespace plait {

absl::Status CausalConvolutionForward(Execution& execution,
                                      const CausalConvolutionForwardArgs& args);
absl::Status CausalConvolutionBackward(Execution& execution,
                                       const CausalConvolutionBackwardArgs& args);

std::span<const Implementation<CausalConvolutionForwardArgs>>
CausalConvolutionForwardImplementations();
std::span<const Implementation<CausalConvolutionBackwardArgs>>
CausalConvolutionBackwardImplementations();

}  // namespace plait
