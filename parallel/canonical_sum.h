// CanonicalSum: adds up arrays, leaf by leaf, along one fixed binary tree over the leaves' indices:
// partial sums of 1, 2, 4, ... leaves are kept, like the digits of a binary counter, and added
// where a carry occurs. The result depends on the leaves and their number alone, not on who
// computed them or how many ranks there are. Memory: log2(leaves) + 1 arrays.
#pragma once

#include <cstdint>
#include <vector>

#include "base/execution.h"
#include "base/tensor.h"

namespace plait {

class CanonicalSum {
 public:
  // Adds the next leaf: `elements` of `dtype` (bf16 or the dtype of the sum), converted to `sum`.
  absl::Status Add(Execution& execution, const void* leaf, DType dtype, DType sum,
                   int64_t elements);
  // Writes the sum of all leaves into `total` (zeros where there was none) and begins anew.
  absl::Status Take(Execution& execution, VectorView total);

 private:
  std::vector<Tensor> levels_;  // [i]: sum of 2^i leaves; absent: none
};

}  // namespace plait
