// SIMD causal convolution with SiLU for bf16 and f32 and two to four taps: a lane is a channel,
// taps and window stay in registers.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/causal_convolution_args.h"

namespace plait::cpu {

std::string AcceptsCausalConvolutionForward(const CausalConvolutionForwardArgs& args);
absl::Status CausalConvolutionForward(Execution& execution,
                                      const CausalConvolutionForwardArgs& args);
std::string AcceptsCausalConvolutionBackward(const CausalConvolutionBackwardArgs& args);
absl::Status CausalConvolutionBackward(Execution& execution,
                                       const CausalConvolutionBackwardArgs& args);

}  // namespace plait::cpu
