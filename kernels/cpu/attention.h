// SIMD attention for bf16 and f32, flash-style.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/attention_args.h"

namespace plait::cpu {

std::string AcceptsAttentionForward(const AttentionForwardArgs& args);
absl::Status AttentionForward(Execution& execution, const AttentionForwardArgs& args);
std::string AcceptsAttentionBackward(const AttentionBackwardArgs& args);
absl::Status AttentionBackward(Execution& execution, const AttentionBackwardArgs& args);

}  // namespace plait::cpu
