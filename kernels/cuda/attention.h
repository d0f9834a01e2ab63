// Attention on a CUDA device by plait's own kernels, flash-style: tiles in shared memory, online
// softmax, sums in registers. Takes what attention_args.h describes, in bf16, f32 and f64 and with
// heads of up to 256 elements; cudnn_attention.h is quicker where it accepts. The backward goes
// twice over the scores, by queries for dq and by keys for dk and dv, so that no two blocks add to
// one element: bits repeat.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/attention_args.h"
#include "kernels/scratch.h"

namespace plait::cuda {

std::string AcceptsAttentionForward(const AttentionForwardArgs& args);
absl::Status AttentionForward(Execution& execution, const AttentionForwardArgs& args);
std::string AcceptsAttentionBackward(const AttentionBackwardArgs& args);
absl::Status AttentionBackward(Execution& execution, const AttentionBackwardArgs& args);
KernelScratch::Blocks AttentionBackwardScratch(const AttentionScratchShape& shape);

}  // namespace plait::cuda
