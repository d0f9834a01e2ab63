// Numbers moved by an index on a CUDA device.
#pragma once

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/indexed_numbers_args.h"

namespace plait::cuda {

absl::Status GatherNumbers(Execution& execution, const GatherNumbersArgs& args);
absl::Status ScatterNumbers(Execution& execution, const ScatterNumbersArgs& args);

}  // namespace plait::cuda
