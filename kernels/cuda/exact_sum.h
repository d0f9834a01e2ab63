// Sums without rounding on a CUDA device: a block makes one, in shared memory, where every thread
// has words of its own; theirs are integers, whose order does not matter.
#pragma once

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/exact_sum_args.h"

namespace plait::cuda {

absl::Status ExactSums(Execution& execution, const ExactSumsArgs& args);

}  // namespace plait::cuda
