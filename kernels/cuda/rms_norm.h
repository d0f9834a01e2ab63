// RMSNorm on a CUDA device, for bf16, f32 and f64. A row belongs to a warp where it is narrow, else
// to a block, whose registers hold it between the two passes over it (bf16 up to 16384 wide, f32 up
// to 8192); the weight's gradient from blocks that walk over rows, summed in a fixed order.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/rms_norm_args.h"
#include "kernels/scratch.h"

namespace plait::cuda {

std::string AcceptsRmsNormForward(const RmsNormForwardArgs& args);
absl::Status RmsNormForward(Execution& execution, const RmsNormForwardArgs& args);
std::string AcceptsRmsNormBackward(const RmsNormBackwardArgs& args);
absl::Status RmsNormBackward(Execution& execution, const RmsNormBackwardArgs& args);
// Of rows that are aligned to 16 bytes.
KernelScratch::Blocks RmsNormBackwardScratch(DType dtype, int64_t tokens, int64_t dim);

}  // namespace plait::cuda
