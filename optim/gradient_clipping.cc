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
  int64_t num_tiles = 0;
  for (const ShardedParameter& parameter : parameters) {
    num_tiles += SquaredNormTiles(parameter.gradient.num_elements());
  }
  Tensor tiles = execution.Empty(DType::kF64, {num_tiles});  // of all parameters, one after another
  std::vector<SquaredNormTensor> tensors;
  tensors.reserve(parameters.size());
  int64_t begin = 0;
  for (const ShardedParameter& parameter : parameters) {
    const int64_t end = begin + SquaredNormTiles(parameter.gradient.num_elements());
    tensors.push_back({.name = parameter.name,
                       .x = parameter.gradient.vector(),
                       .tile_sums = tiles.Slice(begin, end).vector()});
    begin = end;
  }
  PLAIT_RETURN_IF_ERROR(SquaredNorm(execution, {.tensors = tensors}));

  PLAIT_ASSIGN_OR_RETURN(const Tensor host_tiles, execution.ToHost(tiles));
  const double* tile = host_tiles.data<double>();
  GradientNorm result;
  ExactSum sum;
  for (const SquaredNormTensor& tensor : tensors) {
    double squared = 0;
    for (int64_t i = 0; i < tensor.tile_sums.size; ++i, ++tile) {
      sum.Add(*tile);
      squared += *tile;
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
