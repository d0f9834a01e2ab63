// Batch: one microbatch, flat. Rows follow one another; every row start is a document start too, so
// that nothing (attention, convolution, scan) crosses rows or documents. Positions and document ids
// are derived from the offsets.
#pragma once

#include <cstdint>

#include "base/tensor.h"

namespace plait {

// Fills the rest of a row that no document fills. Reads as a zero embedding, is a document of its
// own, has no weight.
inline constexpr int32_t kPaddingToken = -1;

struct Batch {
  Tensor tokens;        // i32 [tokens]; kPaddingToken where there is none
  Tensor targets;       // i32 [tokens]: the next token of the same document; meaningless where the
                        // weight is 0
  Tensor token_weight;  // f32 [tokens]: weight of predicting targets[t]
  Tensor document_offsets;  // i32 [documents + 1]: 0 ... tokens, ascending
  double weight_sum = 0;    // of token_weight
  int64_t real_tokens = 0;  // tokens that are not padding
};

}  // namespace plait
