// BlockStack: the loop over blocks. Forward gathers a block's parameters, asks for the next ones,
// runs, releases; backward does the same in reverse, runs a block's forward again where it was not
// kept, and starts the reduction of its gradients.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "model/block.h"
#include "parallel/parameter_sharder.h"

namespace plait {

enum class Recomputation { kNone, kBlocks };

class BlockStack {
 public:
  struct Saved {
    std::vector<std::unique_ptr<Block::Saved>> blocks;  // nullptr: to be recomputed
    std::vector<Tensor> inputs;                         // residual sums, where recomputed
    std::vector<Routing> routings;                      // of expert blocks; kept in any case
    std::vector<RowStatisticsPair>
        output_statistics;  // per block; the last is filled by the final norm
  };

  // first_unit: index in the sharder of the first block's unit; the others follow.
  BlockStack(std::vector<std::unique_ptr<Block>> blocks, int first_unit,
             Recomputation recomputation)
      : blocks_(std::move(blocks)), first_unit_(first_unit), recomputation_(recomputation) {}

  int size() const { return static_cast<int>(blocks_.size()); }
  Block& block(int i) const { return *blocks_[i]; }

  // saved == nullptr keeps nothing. caches: one per block for cached generation, or empty.
  absl::Status Forward(Execution& execution, ParameterSharder& sharder,
                       const SequenceLayout& layout, std::vector<BlockCache>* caches,
                       ResidualStream& stream, Saved* saved);

  // gradient: of the stream after the last block. factors: one per block. Returns the gradient of
  // the stream before the first; frees each block's state as it goes.
  absl::StatusOr<Tensor> Backward(Execution& execution, ParameterSharder& sharder,
                                  const SequenceLayout& layout,
                                  const std::vector<BlockLossFactors>& factors, Tensor gradient,
                                  Saved& saved);

  // The routing of block i in `saved`; nullptr if it has none.
  const Routing* routing(const Saved& saved, int i) const;

 private:
  std::vector<std::unique_ptr<Block>> blocks_;
  int first_unit_;
  Recomputation recomputation_;
};

}  // namespace plait
