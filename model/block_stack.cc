#include "model/block_stack.h"

#include <utility>

#include "base/status_macros.h"

namespace plait {

absl::Status BlockStack::Forward(Execution& execution, ParameterSharder& sharder,
                                 const SequenceLayout& layout, std::vector<BlockCache>* caches,
                                 ResidualStream& stream, Saved* saved) {
  if (saved != nullptr) {
    saved->blocks.resize(blocks_.size());
    saved->inputs.resize(blocks_.size());
    saved->routings.resize(blocks_.size());
    saved->delta_statistics.resize(blocks_.size());
  }
  for (int i = 0; i < size(); ++i) {
    PLAIT_RETURN_IF_ERROR(sharder.Unshard(execution, first_unit_ + i));
    if (first_unit_ + i + 1 < end_unit_) {
      PLAIT_RETURN_IF_ERROR(sharder.Prefetch(execution, first_unit_ + i + 1));
    }
    BlockForwardContext context{.layout = &layout};
    if (saved != nullptr) context.delta_statistics = &saved->delta_statistics[i];
    if (caches != nullptr) context.cache = &(*caches)[i];
    std::unique_ptr<Block::Saved> block_saved;
    PLAIT_RETURN_IF_ERROR(
        blocks_[i]->Forward(execution, context, stream, saved != nullptr ? &block_saved : nullptr));
    if (saved != nullptr && recomputation_ == Recomputation::kBlocks) {
      saved->inputs[i] = block_saved->residual_sum;
      if (const Routing* routing = blocks_[i]->routing(*block_saved)) saved->routings[i] = *routing;
      block_saved.reset();
    }
    if (saved != nullptr) saved->blocks[i] = std::move(block_saved);
    PLAIT_RETURN_IF_ERROR(sharder.Reshard(execution, first_unit_ + i));
    execution.Poll();
  }
  return absl::OkStatus();
}

absl::StatusOr<Tensor> BlockStack::Backward(Execution& execution, ParameterSharder& sharder,
                                            const SequenceLayout& layout,
                                            std::span<const BlockLossFactors> factors,
                                            Tensor gradient, Saved& saved) {
  for (int i = size() - 1; i >= 0; --i) {
    PLAIT_RETURN_IF_ERROR(sharder.Unshard(execution, first_unit_ + i));
    if (i > 0) PLAIT_RETURN_IF_ERROR(sharder.Prefetch(execution, first_unit_ + i - 1));
    if (saved.blocks[i] == nullptr) {  // recompute from the same input, along the same routing
      ResidualStream stream{.residual = saved.inputs[i], .delta = {}};
      BlockForwardContext context{.layout = &layout};
      if (saved.routings[i].choices) context.routing = &saved.routings[i];
      PLAIT_RETURN_IF_ERROR(blocks_[i]->Forward(execution, context, stream, &saved.blocks[i]));
    }
    PLAIT_RETURN_IF_ERROR(sharder.PrepareGradients(execution, first_unit_ + i));
    const BlockBackwardContext context{.layout = &layout, .factors = factors[i]};
    PLAIT_ASSIGN_OR_RETURN(gradient,
                           blocks_[i]->Backward(execution, context, gradient, *saved.blocks[i]));
    saved.blocks[i].reset();  // activation memory returns here
    saved.inputs[i] = Tensor();
    PLAIT_RETURN_IF_ERROR(sharder.ReduceGradients(execution, first_unit_ + i));
    PLAIT_RETURN_IF_ERROR(sharder.Reshard(execution, first_unit_ + i));
    execution.Poll();
  }
  return gradient;
}

const Routing* BlockStack::routing(const Saved& saved, int i) const {
  if (saved.routings[i].choices) return &saved.routings[i];
  return saved.blocks[i] == nullptr ? nullptr : blocks_[i]->routing(*saved.blocks[i]);
}

}  // namespace plait
