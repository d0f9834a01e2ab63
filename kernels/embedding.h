// Embedding look-up. Formulas and shapes: embedding_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/embedding_args.h"
#include "kernels/implementation.h"

namespace plait {

// InvalidArgument, naming the position, where an id is not in the table; on a device ids must be.
absl::Status EmbeddingForward(Execution& execution, const EmbeddingForwardArgs& args);
absl::Status EmbeddingBackward(Execution& execution, const EmbeddingBackwardArgs& args);

std::span<const Implementation<EmbeddingForwardArgs>> EmbeddingForwardImplementations();
std::span<const Implementation<EmbeddingBackwardArgs>> EmbeddingBackwardImplementations();

}  // namespace plait
