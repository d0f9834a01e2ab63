// Copies on the device of small host arrays that many kernels of a step are given (offsets of
// documents, of groups of rows): one upload for each content, not for each call.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "base/execution.h"

namespace plait::cuda {

// Good for work on the compute stream that is launched before 256 further calls of this function.
absl::StatusOr<const int32_t*> DeviceCopy(Execution& execution, const int32_t* values,
                                          int64_t count);

}  // namespace plait::cuda
