// BlockStack: the loop over neighbouring blocks of a model. Forward gathers a block's parameters,
// asks for the next ones, runs, releases; backward does the same in reverse, runs a block's forward
// again where it was not kept, and starts the reduction of its gradients.
#pragma once

#include <memory>
#include <span>
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
    // Per block, of the delta that it added to the stream: the output of the block before. Absent
    // for the first block of the model.
    std::vector<RowStatisticsPair> delta_statistics;
  };

  // blocks: outlive the stack. first_unit: index in the sharder of the first block's unit; the
  // others follow. end_unit: up to where a forward pass asks for units in advance.
  BlockStack(std::vector<Block*> blocks, int first_unit, int end_unit, Recomputation recomputation)
      : blocks_(std::move(blocks)),
        first_unit_(first_unit),
        end_unit_(end_unit),
        recomputation_(recomputation) {}

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
                                  std::span<const BlockLossFactors> factors, Tensor gradient,
                                  Saved& saved);

  // The routing of block i in `saved`; nullptr if it has none.
  const Routing* routing(const Saved& saved, int i) const;
  // The stream as block i found it, [rows, model_dim].
  const Tensor& residual_sum(const Saved& saved, int i) const {
    return saved.blocks[i] != nullptr ? saved.blocks[i]->residual_sum : saved.inputs[i];
  }

 private:
  std::vector<Block*> blocks_;
  int first_unit_;
  int end_unit_;
  Recomputation recomputation_;
};

}  // namespace plait
