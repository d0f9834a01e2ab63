#include "optim/gradient_clipping.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/status_macros.h"
#include "kernels/optimizer_update.h"

namespace plait {

absl::StatusOr<GradientNorm> GlobalGradientNorm(Execution& execution, const DeviceMesh& mesh,
                                                std::span<const ShardedParameter> parameters) {
  GradientNorm result;
  double sum = 0;
  for (const ShardedParameter& parameter : parameters) {
    double squared = 0;
    PLAIT_RETURN_IF_ERROR(
        Annotate(SquaredNorm(execution, {.x = parameter.gradient.vector(), .sum = &squared}),
                 parameter.name));
    result.squared.push_back(squared);
    sum += squared;
  }
  // Shards along the shard axis are disjoint parts of a parameter; replicas hold the same ones.
  PLAIT_ASSIGN_OR_RETURN(
      const Event reduced,
      mesh.axis(MeshAxis::kShard)
          .AllReduce(execution.compute(), {&sum, DType::kF64, 1}, ReduceOperation::kSum));
  reduced.Synchronize();
  result.norm = std::sqrt(sum);
  return result;
}

double ClipCoefficient(double norm, double limit) {
  if (!std::isfinite(norm)) return std::numeric_limits<double>::quiet_NaN();
  return limit > 0 ? std::min(1.0, limit / (norm + 1e-6)) : 1.0;
}

}  // namespace plait
