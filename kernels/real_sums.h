// Sums over real rows. Formulas and shapes: real_sums_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/implementation.h"
#include "kernels/real_sums_args.h"

namespace plait {

absl::Status RealRowSums(Execution& execution, const RealRowSumsArgs& args);
absl::Status RealExpertSums(Execution& execution, const RealExpertSumsArgs& args);

std::span<const Implementation<RealRowSumsArgs>> RealRowSumsImplementations();
std::span<const Implementation<RealExpertSumsArgs>> RealExpertSumsImplementations();

}  // namespace plait
