// Cross-entropy of chosen tokens over a chunk of logits. Formulas and shapes:
// token_cross_entropy_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/implementation.h"
#include "kernels/token_cross_entropy_args.h"

namespace plait {

absl::Status TokenCrossEntropy(Execution& execution, const TokenCrossEntropyArgs& args);

std::span<const Implementation<TokenCrossEntropyArgs>> TokenCrossEntropyImplementations();

}  // namespace plait
