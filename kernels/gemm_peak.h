// Measured peak of the matrix product on this machine: the yardstick of training's FLOP/s. Best of
// several runs over a fixed list of shapes, by the implementation that matmul chooses (hence with
// the run's instruction set), on every thread of the execution, or on its device.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "base/execution.h"

namespace plait {

struct GemmRate {
  int64_t m = 0, n = 0, k = 0;
  double flops_per_second = 0;  // 2 m n k over the shortest time seen
};

struct GemmPeak {
  std::vector<GemmRate> rates;       // per shape, in the order of the list
  double best_flops_per_second = 0;  // the largest of them
};

// dtype: of both operands and the result, bf16 or f32; products are x W^T, as in a linear layer.
// seconds_per_shape: time spent on each shape, at least three runs. Waits for the results.
absl::StatusOr<GemmPeak> MeasureGemmPeak(Execution& execution, DType dtype,
                                         double seconds_per_shape = 0.05);

}  // namespace plait
