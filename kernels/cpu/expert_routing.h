// SIMD router and combine, threaded permutation. Router in f32; combine for bf16 and f32.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/expert_routing_args.h"

namespace plait::cpu {

std::string AcceptsRouterForward(const RouterForwardArgs& args);
absl::Status RouterForward(Execution& execution, const RouterForwardArgs& args);
std::string AcceptsRouterBackward(const RouterBackwardArgs& args);
absl::Status RouterBackward(Execution& execution, const RouterBackwardArgs& args);
absl::Status ExpertPermutation(Execution& execution, const ExpertPermutationArgs& args);
std::string AcceptsCombineRows(const CombineRowsArgs& args);
absl::Status CombineRows(Execution& execution, const CombineRowsArgs& args);

}  // namespace plait::cpu
