// Cross-entropy of chosen tokens on a CUDA device, for bf16, f32 and f64. A block a row: one read
// of the logits for largest and sum, each thread rescaling its own sum where it meets a larger
// logit, then the gradient, whose read finds the row in the L2 cache.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/token_cross_entropy_args.h"

namespace plait::cuda {

std::string AcceptsTokenCrossEntropy(const TokenCrossEntropyArgs& args);
absl::Status TokenCrossEntropy(Execution& execution, const TokenCrossEntropyArgs& args);

}  // namespace plait::cuda
