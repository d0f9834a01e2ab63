#include "optim/gradient_clipping.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/status_macros.h"
#include "kernels/exact_sum.h"
#include "kernels/optimizer_update.h"
#include "optim/exact_sum.h"
#include "parallel/communication_plan.h"
#include "parallel/unit_layout.h"

namespace plait {

static_assert(kSquaredNormTile == kTileElements, "shards are cut at whole tiles");
static_assert(kExactSumWords == kNormWords, "the communication plan counts them");

namespace {

// tile: the sums of all tensors, one after another.
size_t FirstNotFinite(std::span<const SquaredNormTensor> tensors, const double* tile) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    const double* const end = tile + tensors[i].tile_sums.size;
    if (!std::all_of(tile, end, [](double sum) { return std::isfinite(sum); })) return i;
    tile = end;
  }
  return tensors.size();
}

}  // namespace

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

  Tensor words = execution.Empty(DType::kI64, {NumExactSums(num_tiles) * kExactSumWords});
  PLAIT_RETURN_IF_ERROR(
      ExactSums(execution, {.x = std::as_const(tiles).vector(), .words = words.vector()}));

  PLAIT_ASSIGN_OR_RETURN(const Tensor host_words, execution.ToHost(words));
  ExactSum sum;
  sum.Add({host_words.data<int64_t>(), static_cast<size_t>(host_words.num_elements())});
  GradientNorm result;
  result.first_not_finite = tensors.size();
  if (!sum.is_finite()) {
    PLAIT_ASSIGN_OR_RETURN(const Tensor host_tiles, execution.ToHost(tiles));
    result.first_not_finite = FirstNotFinite(tensors, host_tiles.data<double>());
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
