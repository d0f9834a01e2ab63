// One number a row, moved by an index: how router weights and their gradients go between the pairs
// of tokens and choices and the rows that the pairs are sorted into.
#pragma once

#include <cstdint>

#include "base/view.h"

namespace plait {

// out[i] = values[index[i]].
struct GatherNumbersArgs {
  ConstVectorView values;          // f32 or f64
  const int32_t* index = nullptr;  // [n], below values.size
  VectorView out;                  // [n], dtype of values
};

// out[index[i]] = values[i]; the index is a permutation.
struct ScatterNumbersArgs {
  ConstVectorView values;          // [n], f32 or f64
  const int32_t* index = nullptr;  // [n]
  VectorView out;                  // [n], dtype of values
};

}  // namespace plait
