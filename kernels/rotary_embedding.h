// Rotary position embedding. Formulas and shapes: rotary_embedding_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/implementation.h"
#include "kernels/rotary_embedding_args.h"

namespace plait {

absl::Status RotaryEmbedding(Execution& execution, const RotaryEmbeddingArgs& args);

std::span<const Implementation<RotaryEmbeddingArgs>> RotaryEmbeddingImplementations();

}  // namespace plait
