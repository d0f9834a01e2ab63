// Attention over packed documents. Formulas and shapes: attention_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/attention_args.h"
#include "kernels/implementation.h"

namespace plait {

absl::Status AttentionForward(Execution& execution, const AttentionForwardArgs& args);
absl::Status AttentionBackward(Execution& execution, const AttentionBackwardArgs& args);

std::span<const Implementation<AttentionForwardArgs>> AttentionForwardImplementations();
std::span<const Implementation<AttentionBackwardArgs>> AttentionBackwardImplementations();

}  // namespace plait
