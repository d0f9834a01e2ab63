// Joins attention over two sets of keys. Formulas and shapes: attention_merge_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/attention_merge_args.h"
#include "kernels/implementation.h"

namespace plait {

absl::Status AttentionMerge(Execution& execution, const AttentionMergeArgs& args);

std::span<const Implementation<AttentionMergeArgs>> AttentionMergeImplementations();

}  // namespace plait
