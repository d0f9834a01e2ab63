// Router, expert permutation and combine on a CUDA device. A group of lanes takes one token of the
// router. The permutation is a counting sort in three launches (counts of each expert in each tile
// of pairs, their prefix sums, a scatter that ranks pairs by votes), so that nothing depends on the
// order of arrival. Combine reads 16 bytes at once where rows are aligned.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/expert_routing_args.h"
#include "kernels/scratch.h"

namespace plait::cuda {

// f32 and f64, at most 2048 experts.
std::string AcceptsRouterForward(const RouterForwardArgs& args);
absl::Status RouterForward(Execution& execution, const RouterForwardArgs& args);
std::string AcceptsRouterBackward(const RouterBackwardArgs& args);
absl::Status RouterBackward(Execution& execution, const RouterBackwardArgs& args);

// At most 2048 experts. Scratch: four bytes for each expert and 2048 pairs.
std::string AcceptsExpertPermutation(const ExpertPermutationArgs& args);
absl::Status ExpertPermutation(Execution& execution, const ExpertPermutationArgs& args);
KernelScratch::Blocks ExpertPermutationScratch(int64_t pairs, int64_t experts);

// bf16, f32 and f64, rows and out alike.
std::string AcceptsCombineRows(const CombineRowsArgs& args);
absl::Status CombineRows(Execution& execution, const CombineRowsArgs& args);

}  // namespace plait::cuda
