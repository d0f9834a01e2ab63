// Embedding look-up: y[t] = table[ids[t]]; a negative id (padding) reads as zeros and gets no
// gradient. Backward: dtable[ids[t]] += dy[t], in token order.
#pragma once

#include <cstdint>

#include "base/view.h"

namespace plait {

struct EmbeddingForwardArgs {
  const int32_t* ids = nullptr;  // [tokens], below table.rows
  ConstMatrixView table;         // [vocabulary, dim]
  MatrixView y;                  // [tokens, dim]
};

struct EmbeddingBackwardArgs {
  const int32_t* ids = nullptr;
  ConstMatrixView dy;  // [tokens, dim]
  MatrixView dtable;   // [vocabulary, dim], f32 or f64, added to
};

}  // namespace plait
