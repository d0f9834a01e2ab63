// What benchmarks of kernels share: data that is neither zero nor equal, and the time of a run on
// the execution's device.
#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "base/execution.h"

namespace plait {

// On the execution's device. bf16, f32: uniform in [least, least + 1), equal on every machine; the
// numbers repeat after about a million.
absl::StatusOr<Tensor> BenchmarkTensor(Execution& execution, DType dtype, const Shape& shape,
                                       float least = -0.5f);

// The least time of a run, seconds, of several runs that take `seconds` together (at least three),
// after one that is not counted: it fills caches. A device is timed by its own clock, over runs
// given to it one behind the other; `run` enqueues on the compute stream.
absl::StatusOr<double> LeastSeconds(Execution& execution, double seconds,
                                    const std::function<absl::Status()>& run);

}  // namespace plait
