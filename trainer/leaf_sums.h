// Sums over the microbatches of all ranks that are the same for any number of data-parallel ranks.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "parallel/device_mesh.h"

namespace plait {

// Collective. values: f64 [microbatches of this rank, columns], as many on every rank. Returns the
// sum of each column, taken in the order of the leaves (microbatch j of data-parallel rank r of R
// is leaf j R + r) and, within one, of the ranks that hold parts of it.
absl::StatusOr<std::vector<double>> SumOverLeaves(const DeviceMesh& mesh, const Tensor& values);

}  // namespace plait
