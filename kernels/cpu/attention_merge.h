// SIMD joining of attention over two sets of keys for f32.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/attention_merge_args.h"

namespace plait::cpu {

std::string AcceptsAttentionMerge(const AttentionMergeArgs& args);
absl::Status AttentionMerge(Execution& execution, const AttentionMergeArgs& args);

}  // namespace plait::cpu
