// Rows copied or added within a device's memory.
#pragma once

#include "absl/status/status.h"
#include "base/execution.h"
#include "base/tensor.h"
#include "kernels/elementwise.h"

namespace plait {

// to = rows, rounded where `to` has the narrower dtype. Same shape.
inline absl::Status CopyTo(Execution& execution, const Tensor& rows, Tensor to) {
  return ScaledAdd(execution, {.b = rows.matrix(), .out = to.matrix()});
}

// sums += rows. Same shape.
inline absl::Status AddTo(Execution& execution, const Tensor& rows, Tensor sums) {
  return ScaledAdd(execution, {.a = sums.matrix(), .b = rows.matrix(), .out = sums.matrix()});
}

}  // namespace plait
