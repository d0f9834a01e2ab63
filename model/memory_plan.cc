#include "model/memory_plan.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/pinned_staging.h"
#include "kernels/exact_sum_args.h"
#include "kernels/optimizer_update_args.h"
#include "parallel/pipeline_schedule.h"

namespace plait {
namespace {

// What lies between the forward and the backward pass of a part for one microbatch.
struct KeptPart {
  std::vector<BlockMemory::Kept> blocks;
  std::vector<PlannedTensor> inputs;                 // where blocks are recomputed
  std::vector<std::vector<PlannedTensor>> routings;  // of those
  std::vector<PlannedTensor> statistics;
  PlannedTensor residual_sum, inverse_rms, hidden;  // of the last part
  PlannedTensor gradient;                           // of the stream after the part, then before it
};

// MicrobatchFlow and LanguageModel.
class StepMemory {
 public:
  StepMemory(MemoryTimeline& timeline, SharderMemory& sharder, const ModelShape& shape,
             const DeviceMesh& mesh, const RankSizes& sizes, const MemoryPlanOptions& options)
      : timeline_(timeline),
        sharder_(sharder),
        shape_(shape),
        sizes_(sizes),
        options_(options),
        kernels_(MakeKernelScratch(sizes.kernels)),
        memories_(MakeBlockMemories(timeline, shape, mesh, sizes)) {
    for (const LayerKind& layer : shape.layers) {
      blocks_.push_back(&memories_.mixer(layer));
      blocks_.push_back(&memories_.feed_forward_of(layer));
    }
  }

  void Run(const PipelineActions& actions) {
    for (const PipelineAction& action : actions) {
      const Key key{action.chunk, action.microbatch};
      switch (action.kind) {
        case PipelineActionKind::kForward:
          ReadMicrobatch(action.microbatch);
          Forward(options_.parts[static_cast<size_t>(action.chunk)], key);
          break;
        case PipelineActionKind::kBackward:
          Backward(options_.parts[static_cast<size_t>(action.chunk)], key);
          if (action.chunk == 0) layouts_.erase(action.microbatch);
          break;
        case PipelineActionKind::kReceiveActivations:
          ReadMicrobatch(action.microbatch);
          streams_[key] = {Activation(sizes_.dtype, RowElements()),
                           Activation(sizes_.dtype, RowElements())};
          break;
        case PipelineActionKind::kSendActivations:
          streams_.erase(key);
          break;
        case PipelineActionKind::kReceiveGradients:
          kept_[key].gradient = Work(sizes_.dtype, RowElements());
          break;
        case PipelineActionKind::kSendGradients:
          kept_.erase(key);
          break;
      }
    }
  }

 private:
  using Key = std::pair<int64_t, int64_t>;  // chunk and microbatch

  int num_blocks() const { return static_cast<int>(blocks_.size()); }
  int head_unit() const { return num_blocks() + 1; }
  bool recomputes() const { return options_.recomputation == Recomputation::kBlocks; }
  int64_t RowElements() const { return sizes_.rows * shape_.model_dim; }
  int64_t SegmentElements() const { return sizes_.segment * shape_.model_dim; }
  PlannedTensor Activation(DType dtype, int64_t elements) {
    return timeline_.Allocate(dtype, elements, MemoryClass::kActivations);
  }
  PlannedTensor Work(DType dtype, int64_t elements) {
    return timeline_.Allocate(dtype, elements, MemoryClass::kWorkspace);
  }

  void Scratch(const KernelScratch::Blocks& blocks) { HoldBlocks(timeline_, blocks); }

  // SequenceLayout::MoveTo: positions and flags.
  void ReadMicrobatch(int64_t microbatch) {
    if (!sizes_.on_device() || layouts_.contains(microbatch)) return;
    layouts_[microbatch] = {Activation(DType::kI32, sizes_.segment),
                            Activation(sizes_.statistics, sizes_.rows)};
  }
  // A number for each token of the segment that a device is sent for one call.
  PlannedTensor Sent(DType dtype) {
    return sizes_.on_device() ? Work(dtype, sizes_.segment) : nullptr;
  }

  void Forward(const PlannedPart& part, const Key& key) {
    KeptPart& kept = kept_[key];
    const auto size = static_cast<size_t>(part.range.size());
    kept.blocks.resize(size);
    kept.inputs.resize(size);
    kept.routings.resize(size);
    PlannedStream stream;
    if (part.is_first) {
      sharder_.Unshard(0);
      sharder_.Prefetch(1);
      stream.residual = Embedded();
      if (!shape_.tied_embeddings) sharder_.Reshard(0);
    } else {
      stream = std::move(streams_.at(key));
      streams_.erase(key);
    }
    // Units of the next part are not asked for.
    const int end_unit = part.is_last ? head_unit() + 1 : static_cast<int>(part.range.end) + 1;
    for (size_t i = 0; i < size; ++i) {
      const int block = static_cast<int>(part.range.begin) + static_cast<int>(i);
      sharder_.Unshard(1 + block);
      if (2 + block < end_unit) sharder_.Prefetch(2 + block);
      blocks_[block]->Forward(stream, &kept.statistics, &kept.blocks[i], /*routed=*/false);
      if (recomputes()) {
        kept.inputs[i] = kept.blocks[i].residual_sum;
        kept.routings[i] = kept.blocks[i].routing;
        kept.blocks[i] = {};
      }
      sharder_.Reshard(1 + block);
    }
    std::vector<PlannedTensor> measured;
    if (part.is_last) {
      sharder_.Unshard(head_unit());
      kept.hidden = Activation(sizes_.dtype, RowElements());
      kept.residual_sum = Activation(sizes_.dtype, RowElements());
      kept.inverse_rms = Activation(sizes_.statistics, sizes_.rows);
      for (int i = 0; i < 2; ++i) measured.push_back(Work(sizes_.statistics, sizes_.rows));
      stream = {};
    } else {
      streams_[key] = std::move(stream);
    }
    if (shape_.activation_loss_on_residual && shape_.activation_loss_coefficient > 0) {
      for (size_t i = 0; i < 2 * (size + (part.is_last ? 1 : 0) - (part.is_first ? 1 : 0)); ++i) {
        measured.push_back(Work(sizes_.statistics, sizes_.rows));
      }
    }
  }

  void Backward(const PlannedPart& part, const Key& key) {
    KeptPart& kept = kept_.at(key);
    PlannedTensor log_probability;
    if (part.is_last) {
      if (shape_.tied_embeddings) sharder_.PrepareGradients(0);
      sharder_.Unshard(head_unit());
      sharder_.PrepareGradients(head_unit());
      sharder_.Prefetch(head_unit() - 1);
      kept.gradient = Head(log_probability);
      kept.hidden = nullptr;
    }
    PlannedTensor gradient = std::move(kept.gradient);
    if (part.is_last) {
      const PlannedTensor dhidden = std::move(gradient);
      gradient = Work(sizes_.dtype, RowElements());
      Scratch(kernels_->RmsNormBackward(sizes_.dtype, sizes_.rows, shape_.model_dim));
      sharder_.ReduceGradients(head_unit());
      sharder_.Reshard(head_unit());
    }
    for (auto i = static_cast<int>(part.range.size()) - 1; i >= 0; --i) {
      const int block = static_cast<int>(part.range.begin) + i;
      sharder_.Unshard(1 + block);
      if (i > 0) sharder_.Prefetch(block);
      if (recomputes()) {
        PlannedStream stream{.residual = kept.inputs[i], .delta = {}};
        blocks_[block]->Forward(stream, nullptr, &kept.blocks[i],
                                /*routed=*/!kept.routings[i].empty());
      }
      sharder_.PrepareGradients(1 + block);
      gradient = blocks_[block]->Backward(gradient, kept.blocks[i]);
      kept.blocks[i] = {};
      kept.inputs[i] = nullptr;
      sharder_.ReduceGradients(1 + block);
      sharder_.Reshard(1 + block);
    }
    if (part.is_first) {
      if (!shape_.tied_embeddings) sharder_.PrepareGradients(0);
      EmbeddingBackward();
      sharder_.ReduceGradients(0);
      sharder_.Reshard(0);
      kept_.erase(key);
      return;
    }
    kept = {};
    kept.gradient = std::move(gradient);
  }

  // TokenEmbedding: of the tensor ranks each looks up its part of the vocabulary.
  PlannedTensor Embedded() {
    const PlannedTensor ids = Sent(DType::kI32);
    PlannedTensor looked_up;
    if (sizes_.tensor > 1) looked_up = Work(sizes_.dtype, SegmentElements());
    return Activation(sizes_.dtype, RowElements());
  }
  void EmbeddingBackward() {
    const PlannedTensor ids = Sent(DType::kI32);
    PlannedTensor all;
    if (sizes_.tensor > 1) all = Work(sizes_.dtype, SegmentElements());
    Scratch(kernels_->EmbeddingBackward(sizes_.segment, sizes_.vocabulary));
  }

  // TokenLogProbabilityHead: logits and their gradient, a few tokens at a time.
  // log_probability: what of it the backward of the blocks finds; a device's goes to the host.
  PlannedTensor Head(PlannedTensor& log_probability) {
    const PlannedTensor coefficients = Sent(sizes_.statistics);
    PlannedTensor x;
    if (sizes_.tensor > 1) x = Work(sizes_.dtype, SegmentElements());
    log_probability = Work(sizes_.statistics, sizes_.segment);
    PlannedTensor dx = Activation(sizes_.dtype, SegmentElements());
    const PlannedTensor targets = Sent(DType::kI32);
    HeadChunk();
    if (sizes_.on_device()) log_probability = nullptr;
    if (sizes_.tensor == 1) return dx;
    return Activation(sizes_.dtype, RowElements());
  }

  void HeadChunk() {
    const int64_t tokens = std::min(sizes_.segment, HeadChunkTokens(sizes_.kernels.device));
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
    Scratch(kernels_->Matmul({.a = sizes_.dtype,
                              .b = sizes_.dtype,
                              .c = sizes_.dtype,
                              .m = tokens,
                              .n = shape_.model_dim,
                              .k = sizes_.vocabulary}));
  }

  MemoryTimeline& timeline_;
  SharderMemory& sharder_;
  const ModelShape& shape_;
  const RankSizes sizes_;
  const MemoryPlanOptions& options_;
  const std::unique_ptr<const KernelScratch> kernels_;
  BlockMemories memories_;
  std::vector<const BlockMemory*> blocks_;
  std::map<Key, PlannedStream> streams_;  // received, or to be sent
  std::map<Key, KeptPart> kept_;
  std::map<int64_t, std::vector<PlannedTensor>> layouts_;  // of microbatches, on a device
};

// More microbatches than these do not hold more, but for canonical sums.
int64_t MicrobatchesToPlay(const MemoryPlanOptions& options, int64_t stages) {
  if (options.sharder.canonical) return options.microbatches;
  return std::min(options.microbatches, 3 * stages * static_cast<int64_t>(options.parts.size()));
}

PipelineActions ActionsOf(const DeviceMesh& mesh, const MemoryPlanOptions& options) {
  const int64_t stages = mesh.size(MeshAxis::kPipeline);
  const auto chunks = static_cast<int64_t>(options.parts.size());
  const int64_t microbatches = MicrobatchesToPlay(options, stages);
  std::vector<PipelineActions> lists =
      chunks == 1 ? OneForwardOneBackward(stages, microbatches)
                  : InterleavedOneForwardOneBackward(stages, chunks, microbatches);
  return std::move(lists[static_cast<size_t>(mesh.coordinate(MeshAxis::kPipeline))]);
}

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
                                           const RankSizes& sizes,
                                           const MemoryPlanOptions& options) {
  int64_t attention = 0, mamba = 0, dense = 0, experts = 0;
  for (const PlannedPart& part : options.parts) {
    for (int64_t block = part.range.begin; block < part.range.end; ++block) {
      const LayerKind& layer = shape.layers[static_cast<size_t>(block / 2)];
      if (block % 2 == 0) {
        ++(layer.mixer == MixerKind::kAttention ? attention : mamba);
      } else {
        ++(layer.feed_forward == FeedForwardKind::kExperts ? experts : dense);
      }
    }
  }
  using Choose = const BlockMemory& (*)(const BlockMemories&);
  const std::pair<int64_t, Choose> all[] = {
      {attention, [](const BlockMemories& of) -> const BlockMemory& { return *of.attention; }},
      {mamba, [](const BlockMemories& of) -> const BlockMemory& { return *of.mamba; }},
      {dense, [](const BlockMemories& of) -> const BlockMemory& { return *of.feed_forward; }},
      {experts, [](const BlockMemories& of) -> const BlockMemory& { return *of.experts; }}};
  std::vector<BlockKindMemory> kinds;
  for (const auto& [blocks, choose] : all) {
    if (blocks == 0) continue;
    kinds.push_back(MemoryOfKind(shape, mesh, sizes, options.recomputation, choose));
    kinds.back().blocks = blocks;
  }
  return kinds;
}

// Tokens twice, targets, positions, flags, coefficients and log-probabilities; what the host
// computes a loss on experts' outputs from; choices of experts, or where their rows go; the sums
// that the gradients' norm is made of. Without offsets and sums of blocks, some KiB.
int64_t PinnedBytes(const RankSizes& sizes, const ModelShape& shape, const SharderMemory& sharder) {
  int64_t pinned = 0;
  const auto take = [&pinned](DType dtype, int64_t elements) {
    const size_t bytes = static_cast<size_t>(elements) * SizeOf(dtype);
    if (bytes > PinnedStaging::kMaxBytes) return;
    pinned += static_cast<int64_t>(Allocator::RoundedSize(bytes));
  };
  for (int i = 0; i < 4; ++i) take(DType::kI32, sizes.segment);
  take(sizes.statistics, sizes.rows);
  for (int i = 0; i < 2; ++i) take(sizes.statistics, sizes.segment);
  const int64_t expert_rows = sizes.rows * shape.experts_per_token;
  take(DType::kI32, expert_rows);
  if (shape.activation_loss_on_expert_output) {
    for (int i = 0; i < 4; ++i) take(sizes.statistics, expert_rows);
  }
  int64_t tiles = 0;
  for (const int64_t elements : sharder.OwnElements()) tiles += SquaredNormTiles(elements);
  take(DType::kI64, NumExactSums(tiles) * kExactSumWords);
  return pinned;
}

}  // namespace

std::vector<PlannedPart> PartsOfStage(const DeviceMesh& mesh, std::span<const BlockRange> parts) {
  std::vector<PlannedPart> own;
  const auto stages = static_cast<size_t>(mesh.size(MeshAxis::kPipeline));
  for (auto i = static_cast<size_t>(mesh.coordinate(MeshAxis::kPipeline)); i < parts.size();
       i += stages) {
    own.push_back({.range = parts[i], .is_first = i == 0, .is_last = i + 1 == parts.size()});
  }
  return own;
}

MemoryPlan PlanMemory(const DeviceMesh& mesh, LanguageModel& model, const RankSizes& sizes,
                      const MemoryPlanOptions& options) {
  MemoryPlan plan;
  const PipelineActions actions = ActionsOf(mesh, options);
  for (const PlannedRouting routing : {PlannedRouting::kWorst, PlannedRouting::kEven}) {
    RankSizes routed = sizes;
    routed.routing = routing;
    MemoryTimeline timeline;
    std::vector<PlannedTensor> libraries;
    for (const int64_t bytes : MakeKernelScratch(sizes.kernels)->Kept()) {
      libraries.push_back(timeline.Allocate(bytes, MemoryClass::kWorkspace));
    }
    SharderMemory sharder(timeline, mesh, model.Units(), options.sharder, options.windows);
    sharder.HoldMoments();
    StepMemory step(timeline, sharder, model.shape(), mesh, routed, options);
    step.Run(actions);
    sharder.FinishGradients();
    plan.total = timeline.peak();
    plan.classes = timeline.at_peak();
    plan.worst_total = std::max(plan.worst_total, plan.total);
    if (sizes.on_device()) plan.pinned = PinnedBytes(sizes, model.shape(), sharder);
  }
  plan.kinds = MemoryOfKinds(model.shape(), mesh, sizes, options);
  return plan;
}

}  // namespace plait
