// SIMD rotary position embedding for bf16 and f32.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/rotary_embedding_args.h"

namespace plait::cpu {

std::string AcceptsRotaryEmbedding(const RotaryEmbeddingArgs& args);
absl::Status RotaryEmbedding(Execution& execution, const RotaryEmbeddingArgs& args);

}  // namespace plait::cpu
