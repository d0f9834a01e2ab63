// Global L2 norm of all gradients, and the coefficient that keeps it below a limit:
//   norm        = sqrt(sum over parameters, each once, of sum g^2), in f64
//   coefficient = min(1, limit / (norm + 1e-6))
// Each parameter is summed over fixed tiles in order, the parameters in their order, the ranks in
// theirs: the same bits for any number of threads. Source of the coefficient:
// torch.nn.utils.clip_grad_norm_.
#pragma once

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "parallel/device_mesh.h"
#include "parallel/parameter.h"

namespace plait {

struct GradientNorm {
  double norm = 0;              // over all ranks; not finite where a gradient is not
  std::vector<double> squared;  // sum of squares of this rank's shard of each parameter
};

// parameters: sharder.sharded(), after FinishGradients.
absl::StatusOr<GradientNorm> GlobalGradientNorm(Execution& execution, const DeviceMesh& mesh,
                                                std::span<const ShardedParameter> parameters);

// limit 0: no clipping, 1. NaN where the norm is not finite: Optimizer::Step refuses it.
double ClipCoefficient(double norm, double limit);

}  // namespace plait
