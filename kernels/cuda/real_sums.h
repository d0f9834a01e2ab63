// Sums over real rows on a CUDA device: one block a column or expert, whose threads take rows in
// turns; f64 throughout.
#pragma once

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/real_sums_args.h"

namespace plait::cuda {

absl::Status RealRowSums(Execution& execution, const RealRowSumsArgs& args);
absl::Status RealExpertSums(Execution& execution, const RealExpertSumsArgs& args);

}  // namespace plait::cuda
