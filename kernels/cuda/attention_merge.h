// Joins attention over two sets of keys on a CUDA device, for f32 and f64. A warp has a token's
// head; the warps of a block have neighbouring tokens of one head.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/attention_merge_args.h"

namespace plait::cuda {

std::string AcceptsAttentionMerge(const AttentionMergeArgs& args);
absl::Status AttentionMerge(Execution& execution, const AttentionMergeArgs& args);

}  // namespace plait::cuda
