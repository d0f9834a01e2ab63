// Attention on a CUDA device by kernels of our own, for bf16, f32 and f64 and every layout of
// attention_args.h: what cuDNN does not take. Flash-style: tiles of keys (queries) in shared
// memory, an online softmax; a warp holds a few queries (keys), its lanes their elements. Gradients
// of queries are summed by tiles of queries and those of keys by tiles of keys, in a fixed order.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/attention_args.h"

namespace plait::cuda {

std::string AcceptsAttentionForward(const AttentionForwardArgs& args);
absl::Status AttentionForward(Execution& execution, const AttentionForwardArgs& args);
std::string AcceptsAttentionBackward(const AttentionBackwardArgs& args);
absl::Status AttentionBackward(Execution& execution, const AttentionBackwardArgs& args);

}  // namespace plait::cuda
