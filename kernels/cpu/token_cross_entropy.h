// SIMD cross-entropy of chosen tokens for bf16 and f32.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/token_cross_entropy_args.h"

namespace plait::cpu {

std::string AcceptsTokenCrossEntropy(const TokenCrossEntropyArgs& args);
absl::Status TokenCrossEntropy(Execution& execution, const TokenCrossEntropyArgs& args);

}  // namespace plait::cpu
