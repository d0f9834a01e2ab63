// Sums of doubles without rounding. Formula and shapes: exact_sum_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/exact_sum_args.h"
#include "kernels/implementation.h"

namespace plait {

absl::Status ExactSums(Execution& execution, const ExactSumsArgs& args);

std::span<const Implementation<ExactSumsArgs>> ExactSumsImplementations();

}  // namespace plait
