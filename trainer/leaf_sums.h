// Sums over the microbatches of all ranks that are the same for any number of ranks.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "parallel/communicator.h"

namespace plait {

// Collective. values: f64 [microbatches of this rank, columns], as many on every rank. Returns the
// sum of each column, taken in the order of the leaves: microbatch j of rank r of R is leaf j R +
// r.
absl::StatusOr<std::vector<double>> SumOverLeaves(Execution& execution, Communicator& ranks,
                                                  const Tensor& values);

}  // namespace plait
