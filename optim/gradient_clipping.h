// Global L2 norm of all gradients, and the coefficient that keeps it below a limit:
//   norm        = sqrt(sum over parameters, each once, of sum g^2), in f64
//   coefficient = min(1, limit / (norm + 1e-6))
// Squares are summed over fixed tiles, and the tiles without rounding (exact_sum.h): the same bits
// for any number of threads and ranks. Source of the coefficient: torch.nn.utils.clip_grad_norm_.
#pragma once

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "parallel/device_mesh.h"
#include "parallel/parameter.h"

namespace plait {

struct GradientNorm {
  // Over all ranks; NaN where a gradient is not finite. The same bits for every layout that has the
  // same gradients.
  double norm = 0;
  std::vector<double> squared;  // sum of squares of this rank's shard of each parameter
};

// parameters: sharder.sharded(), after FinishGradients. Takes 8 bytes for every 128 of their
// elements while it runs, and waits for the device once.
absl::StatusOr<GradientNorm> GlobalGradientNorm(Execution& execution, const DeviceMesh& mesh,
                                                std::span<const ShardedParameter> parameters);

// limit 0: no clipping, 1. NaN where the norm is not finite: Optimizer::Step refuses it.
double ClipCoefficient(double norm, double limit);

}  // namespace plait
