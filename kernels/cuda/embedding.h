// Embedding look-up on a CUDA device, for bf16, f32 and f64. The backward first groups the tokens
// by id, in token order: they are counted (integers, in any order), each id that occurs is given a
// place for its tokens, and within it a token's rank is the number of earlier ones. Then one team
// of threads adds an id's gradients, token by token: no two write to one row, and bits repeat.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/embedding_args.h"
#include "kernels/scratch.h"

namespace plait::cuda {

std::string AcceptsEmbeddingForward(const EmbeddingForwardArgs& args);
absl::Status EmbeddingForward(Execution& execution, const EmbeddingForwardArgs& args);
std::string AcceptsEmbeddingBackward(const EmbeddingBackwardArgs& args);
absl::Status EmbeddingBackward(Execution& execution, const EmbeddingBackwardArgs& args);
KernelScratch::Blocks EmbeddingBackwardScratch(int64_t tokens, int64_t vocabulary);

}  // namespace plait::cuda
