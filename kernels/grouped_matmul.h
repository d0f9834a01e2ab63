// Grouped matrix products for experts. Formulas and shapes: grouped_matmul_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/grouped_matmul_args.h"
#include "kernels/implementation.h"

namespace plait {

absl::Status GroupedMatmul(Execution& execution, const GroupedMatmulArgs& args);
absl::Status GroupedWeightGradient(Execution& execution, const GroupedWeightGradientArgs& args);

std::span<const Implementation<GroupedMatmulArgs>> GroupedMatmulImplementations();
std::span<const Implementation<GroupedWeightGradientArgs>> GroupedWeightGradientImplementations();

}  // namespace plait
