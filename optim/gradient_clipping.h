// Global L2 norm of all gradients, and the coefficient that keeps it below a limit:
//   norm        = sqrt(sum over parameters, each once, of sum g^2), in f64
//   coefficient = min(1, limit / (norm + 1e-6))
// Squares are summed over fixed tiles, and the tiles without rounding (exact_sum.h): the same bits
// for any number of threads and ranks. Source of the coefficient: torch.nn.utils.clip_grad_norm_.
#pragma once

#include <cstddef>
#include <span>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "parallel/device_mesh.h"
#include "parallel/parameter.h"

namespace plait {

struct GradientNorm {
  // Over all ranks; NaN where a gradient is not finite. The same bits for every layout that has the
  // same gradients.
  double norm = 0;
  // The first parameter whose gradient is not finite in this rank's shard, by its place in the
  // list; as many as there are where there is none.
  size_t first_not_finite = 0;
};

// parameters: sharder.sharded(), after FinishGradients. Takes 8 bytes for every 128 of their
// elements while it runs, and waits for the device once, for 552 bytes of every 2^21 elements;
// again where a gradient is not finite.
absl::StatusOr<GradientNorm> GlobalGradientNorm(Execution& execution, const DeviceMesh& mesh,
                                                std::span<const ShardedParameter> parameters);

// limit 0: no clipping, 1. NaN where the norm is not finite: Optimizer::Step refuses it.
double ClipCoefficient(double norm, double limit);

}  // namespace plait
