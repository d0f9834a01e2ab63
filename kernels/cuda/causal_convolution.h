// Causal convolution on a CUDA device, for bf16, f32 and f64. A thread owns a few neighbouring
// channels and slides over a run of tokens with its taps and last inputs in registers; widths other
// than 4 read their inputs again for each tap. Sums of the parameters' gradients: one a run, added
// in the order of the runs.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/causal_convolution_args.h"
#include "kernels/scratch.h"

namespace plait::cuda {

std::string AcceptsCausalConvolutionForward(const CausalConvolutionForwardArgs& args);
absl::Status CausalConvolutionForward(Execution& execution,
                                      const CausalConvolutionForwardArgs& args);
std::string AcceptsCausalConvolutionBackward(const CausalConvolutionBackwardArgs& args);
absl::Status CausalConvolutionBackward(Execution& execution,
                                       const CausalConvolutionBackwardArgs& args);
// Of rows that are aligned to 16 bytes; others take less.
KernelScratch::Blocks CausalConvolutionBackwardScratch(DType dtype, int64_t tokens,
                                                       int64_t channels, int64_t width);

}  // namespace plait::cuda
