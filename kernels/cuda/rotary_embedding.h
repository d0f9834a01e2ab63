// Rotary position embedding on a CUDA device, for bf16, f32 and f64. A thread has the same pairs of
// a token's heads, whose angles it computes once: in double, reduced to an eighth of a turn in
// double, too. Nothing has to know how far positions reach.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/rotary_embedding_args.h"

namespace plait::cuda {

std::string AcceptsRotaryEmbedding(const RotaryEmbeddingArgs& args);
absl::Status RotaryEmbedding(Execution& execution, const RotaryEmbeddingArgs& args);

}  // namespace plait::cuda
