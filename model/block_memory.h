// BlockMemory: the memory of one kind of block, played on a timeline (parallel/memory_timeline.h):
// the tensors that its Forward and Backward allocate, in their order and with their lifetimes. What
// changes in a block changes here; tests/trainer/memory_plan_test.cc compares the two.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "kernels/scratch.h"
#include "model/model_shape.h"
#include "parallel/device_mesh.h"
#include "parallel/memory_timeline.h"

namespace plait {

using PlannedTensor = MemoryTimeline::Block;

// How the tokens' experts are spread over the ranks that these are dealt to.
enum class PlannedRouting {
  kEven,
  kWorst,  // all to one rank
};

// What one rank has of a microbatch and of the model's sizes.
struct RankSizes {
  DType dtype = DType::kBf16;
  DType statistics = DType::kF32;
  int64_t rows = 0;     // tokens of the residual stream
  int64_t segment = 0;  // tokens of mixers and of the head
  int64_t tokens = 0;   // of the whole microbatch
  int64_t documents = 0;
  KernelSet kernels;
  PlannedRouting routing = PlannedRouting::kEven;
  int64_t tensor = 1;  // ranks of the axis
  int64_t contexts = 1;
  int64_t context_rank = 0;
  bool swaps_halves = false;     // of queries between mirrored segments
  bool documents_cross = false;  // from one segment to the next
  int64_t expert_ranks = 1;      // that experts are dealt to
  // Of the tensor rank's part.
  int64_t heads = 0, kv_heads = 0, channels = 0, hidden_dim = 0, vocabulary = 0;

  static RankSizes Of(const ModelShape& shape, const DeviceMesh& mesh, DType dtype,
                      int64_t microbatch_tokens, int64_t documents, const KernelSet& kernels);

  // Whether what a microbatch reads is copied to a device.
  bool on_device() const { return kernels.device != DeviceKind::kCpu; }
};

// A ResidualStream's tensors.
struct PlannedStream {
  PlannedTensor residual, delta;
};

class BlockMemory {
 public:
  struct Kept {
    PlannedTensor residual_sum;
    PlannedTensor output;
    std::vector<PlannedTensor> routing;  // expert blocks
    std::vector<PlannedTensor> others;
  };

  virtual ~BlockMemory() = default;

  // "mamba", "attention", "feed-forward", "experts".
  virtual std::string_view kind() const = 0;
  // statistics: of the incoming delta are wanted; those that are made are added to it. kept:
  // nullptr keeps nothing. routed: the routing is known already.
  virtual void Forward(PlannedStream& stream, std::vector<PlannedTensor>* statistics, Kept* kept,
                       bool routed) const = 0;
  virtual PlannedTensor Backward(const PlannedTensor& gradient, const Kept& kept) const = 0;
};

struct BlockMemories {
  std::unique_ptr<BlockMemory> attention, mamba, feed_forward, experts;

  const BlockMemory& mixer(const LayerKind& layer) const {
    return layer.mixer == MixerKind::kAttention ? *attention : *mamba;
  }
  const BlockMemory& feed_forward_of(const LayerKind& layer) const {
    return layer.feed_forward == FeedForwardKind::kExperts ? *experts : *feed_forward;
  }
};

// A kernel's scratch, taken and given back.
void HoldBlocks(MemoryTimeline& timeline, const KernelScratch::Blocks& blocks);

// shape, mesh and timeline outlive them.
BlockMemories MakeBlockMemories(MemoryTimeline& timeline, const ModelShape& shape,
                                const DeviceMesh& mesh, const RankSizes& sizes);

}  // namespace plait
