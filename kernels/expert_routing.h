// Router softmax and top-k, expert permutation, combine. Formulas and shapes:
// expert_routing_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/expert_routing_args.h"
#include "kernels/implementation.h"

namespace plait {

absl::Status RouterForward(Execution& execution, const RouterForwardArgs& args);
absl::Status RouterBackward(Execution& execution, const RouterBackwardArgs& args);
absl::Status ExpertPermutation(Execution& execution, const ExpertPermutationArgs& args);
absl::Status CombineRows(Execution& execution, const CombineRowsArgs& args);

std::span<const Implementation<RouterForwardArgs>> RouterForwardImplementations();
std::span<const Implementation<RouterBackwardArgs>> RouterBackwardImplementations();
std::span<const Implementation<ExpertPermutationArgs>> ExpertPermutationImplementations();
std::span<const Implementation<CombineRowsArgs>> CombineRowsImplementations();

}  // namespace plait
