#include "model/layer_traffic.h"

#include <string>

#include "model/token_log_probability_head.h"
#include "parallel/expert_schedule.h"

namespace plait {
namespace {

using enum CollectiveOperation;
using enum MeshAxis;

int64_t Width(DType dtype) { return static_cast<int64_t>(SizeOf(dtype)); }

class Traffic {
 public:
  Traffic(const ModelShape& shape, const DeviceMesh& mesh, const RankSizes& sizes,
          Recomputation recomputation, int64_t microbatches, CommunicationPlan& plan)
      : shape_(shape),
        mesh_(mesh),
        sizes_(sizes),
        forwards_(recomputation == Recomputation::kBlocks ? 2 : 1),
        microbatches_(microbatches),
        plan_(plan) {}

  // The embedding's rows are summed, its gradient's are gathered.
  void AddEmbedding() {
    Rows(kReduceScatter, sizes_.dtype, 1);
    Rows(kAllGather, sizes_.dtype, 1);
  }

  // The other way.
  void AddHead() {
    Rows(kAllGather, sizes_.dtype, 1);
    Rows(kReduceScatter, sizes_.dtype, 1);
    const int64_t rest = sizes_.segment % HeadChunkTokens(DeviceKind::kCpu);
    Logits(HeadChunkTokens(DeviceKind::kCpu), sizes_.segment / HeadChunkTokens(DeviceKind::kCpu));
    Logits(rest, 1);
    if (shape_.balance_loss_coefficient > 0 && shape_.experts > 0) {
      plan_.Add("router counts", AxesText(mesh_, {kContext, kTensor}), kAllReduceSum,
                mesh_.size(kContext) * mesh_.size(kTensor), shape_.experts, 8, microbatches_);
    }
  }

  void AddMixer(const LayerKind& layer) {
    if (layer.mixer == MixerKind::kAttention) {
      AddCut(sizes_.statistics);
      if (sizes_.contexts > 1) AddKeysAndQueries();
      return;
    }
    AddCut(sizes_.dtype);
    const int64_t selection = sizes_.segment * (shape_.dt_rank + 2 * shape_.state_dim);
    plan_.Add("scan inputs", "tensor", kAllReduceSum, mesh_.size(kTensor), selection,
              Width(sizes_.dtype), microbatches_ * (forwards_ + 1));
    if (sizes_.contexts > 1) AddStates();
  }

  void AddFeedForward(const LayerKind& layer) {
    if (layer.feed_forward == FeedForwardKind::kDense) {
      AddCut(sizes_.statistics);
    } else {
      AddExperts();
    }
  }

 private:
  // Rows of the residual stream to all tensor ranks, or their sum back to rows.
  void Rows(CollectiveOperation operation, DType dtype, int64_t times) {
    plan_.Add("rows of the residual stream", "tensor", operation, mesh_.size(kTensor),
              sizes_.rows * shape_.model_dim, Width(dtype), times * microbatches_);
  }

  // A block that the tensor axis cuts: gathered and summed forward; in the backward its output's
  // gradient and its input are gathered and its input's gradient, of `dinput`, is summed.
  void AddCut(DType dinput) {
    Rows(kAllGather, sizes_.dtype, forwards_ + 2);
    Rows(kReduceScatter, sizes_.dtype, forwards_);
    Rows(kReduceScatter, dinput, 1);
  }

  // Of a chunk of tokens, the sum of each rank's part of the vocabulary and the target's logit.
  void Logits(int64_t tokens, int64_t chunks) {
    plan_.Add("logits' sums", "tensor", kAllGather, mesh_.size(kTensor), 2 * tokens,
              Width(sizes_.statistics), chunks * microbatches_);
  }

  // Rows to their experts' ranks and back, each with its router weight one way: with an even
  // routing all but one of the ranks' parts leave.
  void AddExperts() {
    const int64_t ranks = sizes_.expert_ranks;
    const std::string axes = AxesText(mesh_, {kExpert, kTensor});
    const int64_t rows = sizes_.rows * shape_.experts_per_token * (ranks - 1) / ranks;
    const int64_t there_and_back = 2 * shape_.model_dim + ElementsOfWeight(sizes_.dtype);
    const ExpertSizes experts{.tokens = sizes_.rows,
                              .ranks = ranks,
                              .experts = shape_.experts,
                              .experts_per_token = shape_.experts_per_token,
                              .wave_tokens = shape_.expert_wave_tokens};
    const int64_t waves = (sizes_.rows + ExpertSchedule::WaveTokens(experts) - 1) /
                          ExpertSchedule::WaveTokens(experts);
    plan_.Add("experts' loads", axes, kAllGather, ranks,
              ExpertSchedule::NumSlices(experts) * shape_.experts, Width(DType::kI32),
              microbatches_);
    AddCalls(kExpertRows, axes, kAllToAll, ranks, rows * there_and_back, Width(sizes_.dtype),
             microbatches_ * (forwards_ + 1), 2 * waves);
  }

  // Keys and values of all segments to every rank, their gradients' sums back, and queries, outputs
  // and their gradients of half a segment to the mirror; or keys and values from rank to rank.
  void AddKeysAndQueries() {
    const int64_t keys = sizes_.segment * sizes_.kv_heads * shape_.head_dim;
    const int64_t contexts = sizes_.contexts, w = Width(sizes_.dtype);
    if (shape_.context_exchange == ContextExchange::kRing) {
      plan_.Add("keys and values", "context", kSend, contexts, 2 * keys, w,
                microbatches_ * (contexts - 1) * (forwards_ + 1));
      plan_.Add("gradients of keys and values", "context", kSend, contexts, 2 * keys,
                Width(sizes_.statistics), microbatches_ * contexts);
      return;
    }
    plan_.Add("keys and values", "context", kAllGather, contexts, keys, w,
              2 * microbatches_ * (forwards_ + 1));
    plan_.Add("gradients of keys and values", "context", kReduceScatter, contexts, keys,
              Width(sizes_.statistics), 2 * microbatches_);
    if (!sizes_.swaps_halves || contexts - 1 - sizes_.context_rank == sizes_.context_rank) return;
    const int64_t half = sizes_.segment - sizes_.segment / 2;
    plan_.Add("queries and outputs", "context", kSend, contexts,
              half * sizes_.heads * shape_.head_dim, w, 2 * microbatches_ * (forwards_ + 1));
  }

  // The last inputs of the convolution and summaries of the scan, forward and backward.
  void AddStates() {
    if (!sizes_.documents_cross) return;
    const int64_t inputs = (shape_.conv_width - 1) * sizes_.channels;
    const int64_t states = (shape_.state_dim + 1) * sizes_.channels;
    const int64_t statistics = Width(sizes_.statistics);
    plan_.Add("states of segments", "context", kAllGather, sizes_.contexts, inputs,
              Width(sizes_.dtype), microbatches_ * forwards_);
    plan_.Add("states of segments", "context", kAllGather, sizes_.contexts, states, statistics,
              microbatches_ * (forwards_ + 1));
    plan_.Add("states of segments", "context", kAllGather, sizes_.contexts, inputs, statistics,
              microbatches_);
  }

  // As Add, for bytes that `parts` calls move together.
  void AddCalls(const std::string& what, const std::string& axes, CollectiveOperation operation,
                int64_t ranks, int64_t elements, int64_t width, int64_t times, int64_t parts) {
    plan_.Add(what, axes, operation, ranks, elements, width, times);
    for (PlannedCollective& collective : plan_.collectives) {
      if (collective.what == what) collective.calls += times * (parts - 1);
    }
  }

  const ModelShape& shape_;
  const DeviceMesh& mesh_;
  const RankSizes& sizes_;
  const int64_t forwards_;
  const int64_t microbatches_;
  CommunicationPlan& plan_;
};

}  // namespace

void AddLayerTraffic(const ModelShape& shape, const DeviceMesh& mesh, const RankSizes& sizes,
                     const MemoryPlanOptions& options, CommunicationPlan& plan) {
  Traffic traffic(shape, mesh, sizes, options.recomputation, options.microbatches, plan);
  for (const PlannedPart& part : options.parts) {
    if (part.is_first) traffic.AddEmbedding();
    if (part.is_last) traffic.AddHead();
    for (int64_t block = part.range.begin; block < part.range.end; ++block) {
      const LayerKind& layer = shape.layers[static_cast<size_t>(block / 2)];
      block % 2 == 0 ? traffic.AddMixer(layer) : traffic.AddFeedForward(layer);
    }
  }
}

}  // namespace plait
