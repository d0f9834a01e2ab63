#include "optim/gradient_clipping.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/status_macros.h"
#include "kernels/optimizer_update.h"
#include "optim/exact_sum.h"
#include "parallel/communication_plan.h"
#include "parallel/unit_layout.h"

namespace plait {

static_assert(kSquaredNormTile == kTileElements, "shards are cut at whole tiles");
static_assert(ExactSum::kWords == kNormWords, "the communication plan counts them");

absl::StatusOr<GradientNorm> GlobalGradientNorm(Execution& execution, const DeviceMesh& mesh,
                                                std::span<const ShardedParameter> parameters) {
  GradientNorm result;
  ExactSum sum;
  for (const ShardedParameter& parameter : parameters) {
    const int64_t elements = parameter.gradient.num_elements();
    double squared = 0;
    if (elements > 0) {
      Tensor tiles =
          execution.Empty(DType::kF64, {(elements + kSquaredNormTile - 1) / kSquaredNormTile});
      PLAIT_RETURN_IF_ERROR(Annotate(
          SquaredNorm(execution, {.x = parameter.gradient.vector(), .tile_sums = tiles.vector()}),
          parameter.name));
      PLAIT_ASSIGN_OR_RETURN(const Tensor host_tiles, execution.ToHost(tiles));
      for (const double tile : host_tiles.values<double>()) {
        sum.Add(tile);
        squared += tile;
      }
    }
    result.squared.push_back(squared);
  }
  // Without the replicas, ranks hold disjoint parts of the parameters.
  PLAIT_RETURN_IF_ERROR(sum.Reduce(mesh.model()));
  result.norm = std::sqrt(sum.Total());
  return result;
}

double ClipCoefficient(double norm, double limit) {
  if (!std::isfinite(norm)) return std::numeric_limits<double>::quiet_NaN();
  return limit > 0 ? std::min(1.0, limit / (norm + 1e-6)) : 1.0;
}

}  // namespace plait
