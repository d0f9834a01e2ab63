// SIMD embedding look-up for bf16 and f32.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/embedding_args.h"

namespace plait::cpu {

std::string AcceptsEmbeddingForward(const EmbeddingForwardArgs& args);
absl::Status EmbeddingForward(Execution& execution, const EmbeddingForwardArgs& args);
std::string AcceptsEmbeddingBackward(const EmbeddingBackwardArgs& args);
absl::Status EmbeddingBackward(Execution& execution, const EmbeddingBackwardArgs& args);

}  // namespace plait::cpu
