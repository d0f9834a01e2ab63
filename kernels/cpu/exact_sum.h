// Sums without rounding, each by one thread.
#pragma once

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/exact_sum_args.h"

namespace plait::cpu {

absl::Status ExactSums(Execution& execution, const ExactSumsArgs& args);

}  // namespace plait::cpu
