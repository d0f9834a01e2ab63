#include "model/memory_plan.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "kernels/scratch.h"

namespace plait {
namespace {

class StepMemory {
 public:
  StepMemory(MemoryTimeline& timeline, SharderMemory& sharder, const ModelShape& shape,
             const DeviceMesh& mesh, const RankSizes& sizes, const MemoryPlanOptions& options)
      : timeline_(timeline),
        sharder_(sharder),
        shape_(shape),
        sizes_(sizes),
        options_(options),
        memories_(MakeBlockMemories(timeline, shape, mesh, sizes)) {
    for (const LayerKind& layer : shape.layers) {
      blocks_.push_back(&memories_.mixer(layer));
      blocks_.push_back(&memories_.feed_forward_of(layer));
    }
  }

  // LanguageModel::LossAndGradient.
  void Microbatch() {
    std::vector<BlockMemory::Kept> kept(blocks_.size());
    std::vector<PlannedTensor> inputs(blocks_.size());
    std::vector<std::vector<PlannedTensor>> routings(blocks_.size());
    std::vector<PlannedTensor> statistics;  // of outputs and of the stream

    // Forward.
    sharder_.Unshard(0);
    sharder_.Prefetch(1);
    PlannedStream stream{.residual = Embedded(), .delta = {}};
    if (!shape_.tied_embeddings) sharder_.Reshard(0);
    for (int i = 0; i < num_blocks(); ++i) {
      sharder_.Unshard(1 + i);
      sharder_.Prefetch(2 + i);
      blocks_[i]->Forward(stream, i > 0 ? &statistics : nullptr, &kept[i], /*routed=*/false);
      if (options_.recomputation == Recomputation::kBlocks) {
        inputs[i] = kept[i].residual_sum;
        routings[i] = kept[i].routing;
        kept[i] = {};
      }
      sharder_.Reshard(1 + i);
    }
    sharder_.Unshard(head_unit());
    PlannedTensor hidden = Activation(sizes_.dtype, RowElements());
    const PlannedTensor residual_sum = Activation(sizes_.dtype, RowElements());
    const PlannedTensor inverse_rms = Activation(sizes_.statistics, sizes_.rows);
    for (int i = 0; i < 2; ++i) statistics.push_back(Activation(sizes_.statistics, sizes_.rows));
    stream = {};
    if (shape_.activation_loss_on_residual && shape_.activation_loss_coefficient > 0) {
      for (int i = 0; i < 2 * num_blocks(); ++i) {
        statistics.push_back(Activation(sizes_.statistics, sizes_.rows));
      }
    }

    // Head.
    if (shape_.tied_embeddings) sharder_.PrepareGradients(0);
    sharder_.PrepareGradients(head_unit());
    sharder_.Prefetch(head_unit() - 1);
    PlannedTensor log_probability, dhidden;
    Head(log_probability, dhidden);
    hidden = nullptr;

    // Backward.
    PlannedTensor gradient = Work(sizes_.dtype, RowElements());
    sharder_.ReduceGradients(head_unit());
    sharder_.Reshard(head_unit());
    for (int i = num_blocks() - 1; i >= 0; --i) {
      sharder_.Unshard(1 + i);
      if (i > 0) sharder_.Prefetch(i);
      if (options_.recomputation == Recomputation::kBlocks) {
        stream = {.residual = inputs[i], .delta = {}};
        blocks_[i]->Forward(stream, nullptr, &kept[i], /*routed=*/!routings[i].empty());
        stream = {};
      }
      sharder_.PrepareGradients(1 + i);
      gradient = blocks_[i]->Backward(gradient, kept[i]);
      kept[i] = {};
      inputs[i] = nullptr;
      sharder_.ReduceGradients(1 + i);
      sharder_.Reshard(1 + i);
    }
    if (!shape_.tied_embeddings) sharder_.PrepareGradients(0);
    if (sizes_.tensor > 1) Work(sizes_.dtype, SegmentElements());
    sharder_.ReduceGradients(0);
    sharder_.Reshard(0);
  }

 private:
  int num_blocks() const { return static_cast<int>(blocks_.size()); }
  int head_unit() const { return num_blocks() + 1; }
  int64_t RowElements() const { return sizes_.rows * shape_.model_dim; }
  int64_t SegmentElements() const { return sizes_.segment * shape_.model_dim; }
  PlannedTensor Activation(DType dtype, int64_t elements) {
    return timeline_.Allocate(dtype, elements, MemoryClass::kActivations);
  }
  PlannedTensor Work(DType dtype, int64_t elements) {
    return timeline_.Allocate(dtype, elements, MemoryClass::kWorkspace);
  }

  // TokenEmbedding: of the tensor ranks each looks up its part of the vocabulary.
  PlannedTensor Embedded() {
    PlannedTensor looked_up;
    if (sizes_.tensor > 1) looked_up = Work(sizes_.dtype, SegmentElements());
    return Activation(sizes_.dtype, RowElements());
  }

  // TokenLogProbabilityHead: logits and their gradient, a few tokens at a time.
  void Head(PlannedTensor& log_probability, PlannedTensor& dhidden) {
    PlannedTensor x;
    if (sizes_.tensor > 1) x = Work(sizes_.dtype, SegmentElements());
    log_probability = Activation(sizes_.statistics, sizes_.segment);
    dhidden = Activation(sizes_.dtype, SegmentElements());
    HeadChunk();
    if (sizes_.tensor > 1) {
      const PlannedTensor own = Activation(sizes_.dtype, RowElements());
      dhidden = own;
    }
  }

  void HeadChunk() {
    const int64_t tokens = std::min(sizes_.segment, kHeadChunkTokens);
    const PlannedTensor logits = Work(sizes_.statistics, tokens * sizes_.vocabulary);
    // Each rank's part of the sums, everybody's, and the whole.
    std::vector<PlannedTensor> held;
    if (sizes_.tensor > 1) {
      Work(sizes_.statistics, 2 * tokens * (1 + sizes_.tensor));
      held.push_back(Work(sizes_.statistics, tokens));
    }
    if (sizes_.dtype != sizes_.statistics) {
      held.push_back(Work(sizes_.dtype, tokens * sizes_.vocabulary));
    }
    if (sizes_.threads == 0) return;
    for (const int64_t bytes : MatmulScratch(sizes_.dtype, sizes_.dtype, tokens, shape_.model_dim,
                                             sizes_.vocabulary, sizes_.threads)) {
      held.push_back(timeline_.Allocate(bytes, MemoryClass::kWorkspace));
    }
  }

  MemoryTimeline& timeline_;
  SharderMemory& sharder_;
  const ModelShape& shape_;
  const RankSizes sizes_;
  const MemoryPlanOptions options_;
  BlockMemories memories_;
  std::vector<const BlockMemory*> blocks_;
};

// A block by itself, from its input to the gradient of that.
BlockKindMemory MemoryOfKind(const ModelShape& shape, const DeviceMesh& mesh,
                             const RankSizes& sizes, Recomputation recomputation,
                             const BlockMemory& (*choose)(const BlockMemories&)) {
  MemoryTimeline timeline;
  const BlockMemories memories = MakeBlockMemories(timeline, shape, mesh, sizes);
  const BlockMemory& block = choose(memories);
  const auto row = [&] {
    return timeline.Allocate(sizes.dtype, sizes.rows * shape.model_dim, MemoryClass::kActivations);
  };
  BlockKindMemory kind{.kind = std::string(block.kind())};
  BlockMemory::Kept kept;
  {
    PlannedStream stream{.residual = row(), .delta = row()};
    block.Forward(stream, nullptr, &kept, /*routed=*/false);
  }
  const int64_t all = timeline.in_use();
  kind.kept = all;
  if (recomputation == Recomputation::kBlocks) {
    BlockMemory::Kept inputs{.residual_sum = kept.residual_sum, .routing = kept.routing};
    kept = {};
    kind.kept = timeline.in_use();
    kept = std::move(inputs);
    PlannedStream stream{.residual = kept.residual_sum, .delta = {}};
    block.Forward(stream, nullptr, &kept, /*routed=*/!kept.routing.empty());
  }
  const PlannedTensor gradient = row();
  block.Backward(gradient, kept);
  kind.workspace = timeline.peak() - kind.kept;
  return kind;
}

std::vector<BlockKindMemory> MemoryOfKinds(const ModelShape& shape, const DeviceMesh& mesh,
                                           const RankSizes& sizes, Recomputation recomputation) {
  int64_t attention = 0, experts = 0;
  const auto layers = static_cast<int64_t>(shape.layers.size());
  for (const LayerKind& layer : shape.layers) {
    attention += layer.mixer == MixerKind::kAttention ? 1 : 0;
    experts += layer.feed_forward == FeedForwardKind::kExperts ? 1 : 0;
  }
  using Choose = const BlockMemory& (*)(const BlockMemories&);
  const std::pair<int64_t, Choose> all[] = {
      {attention, [](const BlockMemories& all) -> const BlockMemory& { return *all.attention; }},
      {layers - attention,
       [](const BlockMemories& all) -> const BlockMemory& { return *all.mamba; }},
      {layers - experts,
       [](const BlockMemories& all) -> const BlockMemory& { return *all.feed_forward; }},
      {experts, [](const BlockMemories& all) -> const BlockMemory& { return *all.experts; }}};
  std::vector<BlockKindMemory> kinds;
  for (const auto& [blocks, choose] : all) {
    if (blocks == 0) continue;
    kinds.push_back(MemoryOfKind(shape, mesh, sizes, recomputation, choose));
    kinds.back().blocks = blocks;
  }
  return kinds;
}

}  // namespace

MemoryPlan PlanMemory(const DeviceMesh& mesh, LanguageModel& model, const RankSizes& sizes,
                      const MemoryPlanOptions& options) {
  MemoryPlan plan;
  for (const PlannedRouting routing : {PlannedRouting::kWorst, PlannedRouting::kEven}) {
    RankSizes routed = sizes;
    routed.routing = routing;
    MemoryTimeline timeline;
    SharderMemory sharder(timeline, mesh, model.Units(), options.sharder, options.windows);
    sharder.HoldMoments();
    StepMemory step(timeline, sharder, model.shape(), mesh, routed, options);
    // Canonical sums grow with the microbatches; without them every microbatch is like the first.
    const int64_t microbatches = options.sharder.canonical ? options.microbatches : 1;
    for (int64_t i = 0; i < microbatches; ++i) step.Microbatch();
    sharder.FinishGradients();
    plan.total = timeline.peak();
    plan.classes = timeline.at_peak();
    plan.worst_total = std::max(plan.worst_total, plan.total);
  }
  plan.kinds = MemoryOfKinds(model.shape(), mesh, sizes, options.recomputation);
  return plan;
}

}  // namespace plait
