#include "parallel/canonical_sum.h"

#include <cstring>
#include <utility>

#include "parallel/element_reduction.h"

namespace plait {

void CanonicalSum::Add(Execution& execution, const void* leaf, DType dtype, DType sum,
                       int64_t elements) {
  Tensor carry = execution.Empty(sum, {elements});
  ConvertElements({leaf, dtype, elements}, carry.vector());
  for (size_t level = 0;; ++level) {
    if (level == levels_.size()) levels_.emplace_back();
    if (!levels_[level]) {
      levels_[level] = std::move(carry);
      return;
    }
    // Earlier leaves come first.
    AddElements(execution.num_threads(), levels_[level].vector(), carry.vector(), carry.vector());
    levels_[level] = Tensor();
  }
}

void CanonicalSum::Take(Execution& execution, VectorView total) {
  bool any = false;
  // Low levels hold the latest leaves: they come last in every sum.
  for (Tensor& level : levels_) {
    if (!level) continue;
    if (any) {
      AddElements(execution.num_threads(), level.vector(), total, total);
    } else {
      std::memcpy(total.data, level.raw(), level.bytes());
    }
    any = true;
    level = Tensor();
  }
  if (!any) std::memset(total.data, 0, static_cast<size_t>(total.size) * SizeOf(total.dtype));
}

}  // namespace plait
