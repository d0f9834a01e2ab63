#include "parallel/canonical_sum.h"

#include <utility>

#include "base/status_macros.h"
#include "parallel/element_reduction.h"

namespace plait {

absl::Status CanonicalSum::Add(Execution& execution, const void* leaf, DType dtype, DType sum,
                               int64_t elements) {
  Tensor carry = execution.Empty(sum, {elements});
  PLAIT_RETURN_IF_ERROR(ConvertElements(execution, {leaf, dtype, elements}, carry.vector()));
  for (size_t level = 0;; ++level) {
    if (level == levels_.size()) levels_.emplace_back();
    if (!levels_[level]) {
      levels_[level] = std::move(carry);
      return absl::OkStatus();
    }
    // Earlier leaves come first.
    PLAIT_RETURN_IF_ERROR(
        AddElements(execution, levels_[level].vector(), carry.vector(), carry.vector()));
    levels_[level] = Tensor();
  }
}

absl::Status CanonicalSum::Take(Execution& execution, VectorView total) {
  bool any = false;
  // Low levels hold the latest leaves: they come last in every sum.
  for (Tensor& level : levels_) {
    if (!level) continue;
    PLAIT_RETURN_IF_ERROR(any ? AddElements(execution, level.vector(), total, total)
                              : ConvertElements(execution, level.vector(), total));
    any = true;
    level = Tensor();
  }
  if (any) return absl::OkStatus();
  const Tensor zeros = execution.Zeros(total.dtype, {total.size});
  return ConvertElements(execution, zeros.vector(), total);
}

}  // namespace plait
