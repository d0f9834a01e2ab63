// Which blocks (half layers) each part of a pipeline holds: contiguous ranges, at least one block
// each, in the order of the model. Of all such cuts one with the smallest largest part is taken,
// weighing a part by the matrix elements that it multiplies a token by (its FLOPs; the head's lie
// with the last part); from the last part on each takes as many blocks as that bound allows, for
// the first stages hold the embedding and the most microbatches.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"

namespace plait {

namespace recipe::v1 {
class Model;
}

struct BlockRange {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
  friend bool operator==(const BlockRange&, const BlockRange&) = default;
};

// weights: of the blocks, at least 0; at least `parts` of them. head_weight: what the last part has
// beside its blocks.
std::vector<BlockRange> BalancedBlockRanges(std::span<const int64_t> weights, int64_t head_weight,
                                            int64_t parts);

// Of a model with as many blocks as parts or more; else InvalidArgument, as where the layers are
// not described. Defaults need not be filled in.
absl::StatusOr<std::vector<BlockRange>> PipelinePartition(const recipe::v1::Model& model,
                                                          int64_t parts);

}  // namespace plait
