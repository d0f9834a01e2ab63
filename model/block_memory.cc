#include "model/block_memory.h"

#include <utility>

#include "kernels/selective_scan_args.h"
#include "model/context_attention_plan.h"
#include "model/linear.h"
#include "parallel/expert_schedule.h"

namespace plait {
namespace {

// What all blocks share: the norm before them and the gradients around their residual.
class PlannedBlock : public BlockMemory {
 public:
  PlannedBlock(MemoryTimeline& timeline, const ModelShape& shape, const RankSizes& sizes)
      : timeline_(timeline),
        shape_(shape),
        sizes_(sizes),
        kernels_(MakeKernelScratch(sizes.kernels)),
        keep_output_(shape.activation_loss_coefficient > 0 &&
                     shape.activation_loss_on_block_output) {}

 protected:
  PlannedTensor Work(DType dtype, int64_t elements) const {
    return timeline_.Allocate(dtype, elements, MemoryClass::kWorkspace);
  }
  PlannedTensor Work(int64_t elements) const { return Work(sizes_.dtype, elements); }
  // An activation where it is kept, workspace where not.
  PlannedTensor Keep(const Kept* kept, DType dtype, int64_t elements) const {
    return timeline_.Allocate(
        dtype, elements, kept != nullptr ? MemoryClass::kActivations : MemoryClass::kWorkspace);
  }
  void Scratch(const KernelScratch::Blocks& blocks) const { HoldBlocks(timeline_, blocks); }
  void Matmul(DType output, int64_t m, int64_t n, int64_t k) const {
    Scratch(kernels_->Matmul(
        {.a = sizes_.dtype, .b = sizes_.dtype, .c = output, .m = m, .n = n, .k = k}));
  }
  // y = x W^T + bias, with W [out, in].
  void Linear(int64_t tokens, int64_t out, int64_t in, Bias bias = Bias::kNo) const {
    Scratch(kernels_->Matmul({.a = sizes_.dtype,
                              .b = sizes_.dtype,
                              .c = sizes_.dtype,
                              .m = tokens,
                              .n = out,
                              .k = in,
                              .has_bias = bias == Bias::kYes}));
  }
  // Gradients of weight, bias and input.
  void LinearBackward(int64_t tokens, int64_t out, int64_t in, DType dx,
                      Bias bias = Bias::kNo) const {
    Matmul(sizes_.statistics, out, in, tokens);
    if (bias == Bias::kYes) Scratch(kernels_->ColumnSum(sizes_.dtype, tokens, out));
    Matmul(dx, tokens, in, out);
  }

  PlannedTensor Norm(PlannedStream& stream, std::vector<PlannedTensor>* statistics,
                     Kept* kept) const {
    const int64_t elements = sizes_.rows * shape_.model_dim;
    PlannedTensor y = Work(elements);
    PlannedTensor sum;
    if (stream.delta) sum = Keep(kept, sizes_.dtype, elements);
    if (kept != nullptr) {
      kept->others.push_back(Keep(kept, sizes_.statistics, sizes_.rows));  // inverse_rms
    }
    if (stream.delta && statistics != nullptr) {
      for (int i = 0; i < 2; ++i) {
        statistics->push_back(
            timeline_.Allocate(sizes_.statistics, sizes_.rows, MemoryClass::kActivations));
      }
    }
    if (stream.delta) stream = {std::move(sum), nullptr};
    return y;
  }

  PlannedTensor RecomputedNorm() const { return Work(sizes_.rows * shape_.model_dim); }

  void KeepStream(const PlannedStream& stream, Kept* kept) const {
    kept->residual_sum = stream.residual;
    if (keep_output_) kept->output = stream.delta;
  }

  PlannedTensor Delta(const Kept* kept) const {
    return Keep(keep_output_ ? kept : nullptr, sizes_.dtype, sizes_.rows * shape_.model_dim);
  }
  // TensorParallel's Gather, ReduceScatter.
  PlannedTensor Gather(const PlannedTensor& rows) const {
    return sizes_.tensor == 1 ? rows : Work(sizes_.segment * shape_.model_dim);
  }
  PlannedTensor ReduceScatter(const PlannedTensor& partial, DType dtype) const {
    return sizes_.tensor == 1 ? partial : Work(dtype, sizes_.rows * shape_.model_dim);
  }
  // The output of a block that the axis cuts, after `make` wrote this rank's part of it.
  template <class Make>
  PlannedTensor SummedDelta(const Kept* kept, const Make& make) const {
    if (sizes_.tensor == 1) {
      PlannedTensor delta = Delta(kept);
      make();
      return delta;
    }
    const PlannedTensor partial = Work(sizes_.segment * shape_.model_dim);
    make();
    return Delta(kept);
  }

  PlannedTensor OutputGradient(const PlannedTensor& gradient) const {
    return keep_output_ ? Work(sizes_.rows * shape_.model_dim) : gradient;
  }

  // dy: in `dtype`; held by the caller.
  PlannedTensor NormBackward(DType dtype) const {
    const int64_t elements = sizes_.rows * shape_.model_dim;
    PlannedTensor rounded;
    if (dtype != sizes_.dtype) rounded = Work(elements);
    PlannedTensor dr = Work(elements);
    Scratch(kernels_->RmsNormBackward(sizes_.dtype, sizes_.rows, shape_.model_dim));
    return dr;
  }

  MemoryTimeline& timeline_;
  const ModelShape& shape_;
  const RankSizes sizes_;
  const std::unique_ptr<const KernelScratch> kernels_;
  const bool keep_output_;
};

class AttentionMemory final : public PlannedBlock {
 public:
  using PlannedBlock::PlannedBlock;
  std::string_view kind() const override { return "attention"; }

  void Forward(PlannedStream& stream, std::vector<PlannedTensor>* statistics, Kept* kept,
               bool) const override {
    const PlannedTensor rows = Norm(stream, statistics, kept);
    const PlannedTensor y = Gather(rows);
    PlannedTensor q = Keep(kept, sizes_.dtype, sizes_.segment * queries());
    const PlannedTensor k = Keep(kept, sizes_.dtype, sizes_.segment * keys());
    const PlannedTensor v = Keep(kept, sizes_.dtype, sizes_.segment * keys());
    for (const int64_t width : {queries(), keys(), keys()}) {
      Linear(sizes_.segment, width, shape_.model_dim);
    }
    std::vector<PlannedTensor> made = {k, v};
    made.push_back(Keep(kept, sizes_.statistics, sizes_.heads * sizes_.segment));
    const PlannedTensor attended = ForwardOverContext(kept, q, made);
    stream.delta = SummedDelta(kept, [&] { Linear(sizes_.segment, shape_.model_dim, queries()); });
    if (kept == nullptr) return;
    KeepStream(stream, kept);
    kept->others.insert(kept->others.end(), made.begin(), made.end());
  }

  PlannedTensor Backward(const PlannedTensor& gradient, const Kept&) const override {
    const PlannedTensor drows = OutputGradient(gradient);
    const PlannedTensor dout = Gather(drows);
    const PlannedTensor dattended = Work(sizes_.segment * queries());
    LinearBackward(sizes_.segment, shape_.model_dim, queries(), sizes_.dtype);
    const std::vector<PlannedTensor> gradients = BackwardOverContext();
    const PlannedTensor rows = RecomputedNorm();
    const PlannedTensor y = Gather(rows);
    const PlannedTensor dpartial = Work(sizes_.statistics, sizes_.segment * shape_.model_dim);
    for (const int64_t width : {queries(), keys(), keys()}) {
      LinearBackward(sizes_.segment, width, shape_.model_dim, sizes_.statistics);
    }
    const PlannedTensor dy = ReduceScatter(dpartial, sizes_.statistics);
    return NormBackward(sizes_.statistics);
  }

 private:
  int64_t queries() const { return sizes_.heads * shape_.head_dim; }
  int64_t keys() const { return sizes_.kv_heads * shape_.head_dim; }
  bool alone() const { return sizes_.contexts == 1; }
  bool is_ring() const { return !alone() && shape_.context_exchange == ContextExchange::kRing; }
  bool swaps() const {
    return !alone() && !is_ring() && sizes_.swaps_halves &&
           sizes_.contexts - 1 - sizes_.context_rank != sizes_.context_rank;
  }
  // result: of what a call writes; parts that others are added to are not rounded.
  AttentionScratchShape ScratchShape(DType result) const {
    return {.dtype = sizes_.dtype,
            .result = result,
            .heads = sizes_.heads,
            .kv_heads = sizes_.kv_heads,
            .head_dim = shape_.head_dim,
            .documents = sizes_.documents,
            .document_tokens = sizes_.tokens / sizes_.documents,
            .queries = sizes_.segment};
  }
  void BackwardScratch() const {
    Scratch(kernels_->AttentionBackward(ScratchShape(alone() ? sizes_.dtype : sizes_.statistics)));
  }

  // ContextAttention: keys and values of all segments, or one more segment's at a time.
  PlannedTensor ForwardOverContext(const Kept* kept, PlannedTensor q,
                                   std::vector<PlannedTensor>& made) const {
    std::vector<PlannedTensor> gathered;
    if (is_ring()) {
      gathered = {Work(2 * sizes_.segment * keys()), Work(2 * sizes_.segment * keys()),
                  Work(sizes_.statistics, 2 * sizes_.segment * queries())};
    } else if (!alone()) {
      gathered = {Work(sizes_.tokens * keys()), Work(sizes_.tokens * keys())};
    }
    PlannedTensor computed = q;
    if (swaps()) computed = Keep(kept, sizes_.dtype, sizes_.segment * queries());
    made.push_back(computed);
    PlannedTensor out = Keep(kept, sizes_.dtype, sizes_.segment * queries());
    made.push_back(out);
    Scratch(kernels_->AttentionForward(ScratchShape(is_ring() ? sizes_.statistics : sizes_.dtype)));
    if (!swaps()) return out;
    PlannedTensor attended = Keep(kept, sizes_.dtype, sizes_.segment * queries());
    made.push_back(attended);
    return attended;
  }

  std::vector<PlannedTensor> BackwardOverContext() const {
    if (alone()) {
      std::vector<PlannedTensor> gradients = {Work(sizes_.segment * keys()),
                                              Work(sizes_.segment * keys()),
                                              Work(sizes_.segment * queries())};
      BackwardScratch();
      return gradients;
    }
    const int64_t seen = is_ring() ? 2 * sizes_.segment : sizes_.tokens;
    std::vector<PlannedTensor> held = {Work(seen * keys()), Work(seen * keys())};
    if (swaps()) held.push_back(Work(sizes_.segment * queries()));
    for (int i = 0; i < 2; ++i) held.push_back(Work(sizes_.statistics, seen * keys()));
    std::vector<PlannedTensor> gradients = {Work(sizes_.segment * queries())};
    if (sizes_.swaps_halves || is_ring()) {
      const PlannedTensor dk = Work(sizes_.statistics, seen * keys());
      const PlannedTensor dv = Work(sizes_.statistics, seen * keys());
      BackwardScratch();
    } else {
      BackwardScratch();
    }
    for (int i = 0; i < 2; ++i) {
      const PlannedTensor own = Work(sizes_.statistics, sizes_.segment * keys());
      gradients.push_back(sizes_.dtype == sizes_.statistics ? own : Work(sizes_.segment * keys()));
    }
    if (swaps()) gradients.push_back(Work(sizes_.segment * queries()));
    return gradients;
  }
};

class MambaMemory final : public PlannedBlock {
 public:
  using PlannedBlock::PlannedBlock;
  std::string_view kind() const override { return "mamba"; }

  void Forward(PlannedStream& stream, std::vector<PlannedTensor>* statistics, Kept* kept,
               bool) const override {
    const PlannedTensor rows = Norm(stream, statistics, kept);
    const PlannedTensor y = Gather(rows);
    const int64_t channels = sizes_.segment * sizes_.channels;
    std::vector<PlannedTensor> made;
    made.push_back(Keep(kept, sizes_.dtype, 2 * channels));  // xz
    Linear(sizes_.segment, 2 * sizes_.channels, shape_.model_dim, projection_bias());
    if (CarriesStates()) {  // inputs before each document
      made.push_back(Keep(kept, sizes_.dtype, States(shape_.conv_width - 1)));
    }
    made.push_back(Keep(kept, sizes_.dtype, channels));  // u
    made.push_back(Keep(kept, sizes_.dtype, sizes_.segment * selection()));
    Linear(sizes_.segment, selection(), sizes_.channels);
    if (kept != nullptr) made.push_back(Keep(kept, sizes_.statistics, 3 * sizes_.segment));
    const PlannedTensor normalized = Work(sizes_.segment * selection());
    const PlannedTensor dt = Work(channels);
    Linear(sizes_.segment, sizes_.channels, shape_.dt_rank);
    made.push_back(Keep(kept, sizes_.dtype, channels));  // scanned
    if (kept != nullptr) {
      made.push_back(
          Keep(kept, sizes_.statistics,
               NumSelectiveScanCheckpoints(sizes_.segment) * shape_.state_dim * sizes_.channels));
    }
    if (CarriesStates()) {
      Summaries();
      made.push_back(Keep(kept, sizes_.statistics, States(shape_.state_dim)));
    }
    Scratch(kernels_->SelectiveScanForward(ScanShape()));
    stream.delta = SummedDelta(kept, [&] {
      Linear(sizes_.segment, shape_.model_dim, sizes_.channels, projection_bias());
    });
    if (kept == nullptr) return;
    KeepStream(stream, kept);
    kept->others.insert(kept->others.end(), made.begin(), made.end());
  }

  PlannedTensor Backward(const PlannedTensor& gradient, const Kept&) const override {
    const int64_t channels = sizes_.segment * sizes_.channels;
    const int64_t selected = sizes_.segment * selection();
    const PlannedTensor drows = OutputGradient(gradient);
    const PlannedTensor dout = Gather(drows);
    const PlannedTensor dscanned = Work(channels);
    LinearBackward(sizes_.segment, shape_.model_dim, sizes_.channels, sizes_.dtype,
                   projection_bias());
    const PlannedTensor normalized = Work(selected), dt = Work(channels);
    Linear(sizes_.segment, sizes_.channels, shape_.dt_rank);
    const PlannedTensor dxz = Work(2 * channels), du = Work(channels), ddt = Work(channels);
    const PlannedTensor dnormalized = Work(selected);
    PlannedTensor dstates, dinputs;
    if (CarriesStates()) {
      Summaries();
      dstates = Work(sizes_.statistics, States(shape_.state_dim));
      dinputs = Work(sizes_.statistics, States(shape_.conv_width - 1));
    }
    Scratch(kernels_->SelectiveScanBackward(ScanShape()));
    LinearBackward(sizes_.segment, sizes_.channels, shape_.dt_rank, sizes_.dtype);
    const PlannedTensor dselection = Work(selected);
    for (const int64_t width : {shape_.dt_rank, shape_.state_dim}) {
      Scratch(kernels_->RmsNormBackward(sizes_.dtype, sizes_.segment, width));
    }
    Matmul(sizes_.statistics, selection(), sizes_.channels, sizes_.segment);
    const PlannedTensor du_selection = Work(sizes_.statistics, channels);
    Matmul(sizes_.statistics, sizes_.segment, sizes_.channels, selection());
    Scratch(kernels_->CausalConvolutionBackward(sizes_.dtype, sizes_.segment, sizes_.channels,
                                                shape_.conv_width));
    const PlannedTensor rows = RecomputedNorm();
    const PlannedTensor y = Gather(rows);
    const PlannedTensor dpartial = Work(sizes_.segment * shape_.model_dim);
    LinearBackward(sizes_.segment, 2 * sizes_.channels, shape_.model_dim, sizes_.dtype,
                   projection_bias());
    const PlannedTensor dy = ReduceScatter(dpartial, sizes_.dtype);
    return NormBackward(sizes_.dtype);
  }

 private:
  int64_t selection() const { return shape_.dt_rank + 2 * shape_.state_dim; }
  Bias projection_bias() const { return shape_.projection_bias ? Bias::kYes : Bias::kNo; }
  ScanScratchShape ScanShape() const {
    return {.dtype = sizes_.dtype,
            .tokens = sizes_.segment,
            .channels = sizes_.channels,
            .states = shape_.state_dim};
  }
  bool CarriesStates() const { return sizes_.documents_cross; }
  // `rows` rows of channels for every document of the segment.
  int64_t States(int64_t rows) const {
    return (sizes_.documents / sizes_.contexts + 1) * rows * sizes_.channels;
  }
  // Of this segment's part of a document, and of everybody's.
  void Summaries() const {
    Work(sizes_.statistics, (1 + sizes_.contexts) * (shape_.state_dim + 1) * sizes_.channels);
  }
};

class FeedForwardMemory final : public PlannedBlock {
 public:
  using PlannedBlock::PlannedBlock;
  std::string_view kind() const override { return "feed-forward"; }

  void Forward(PlannedStream& stream, std::vector<PlannedTensor>* statistics, Kept* kept,
               bool) const override {
    const PlannedTensor rows = Norm(stream, statistics, kept);
    const PlannedTensor y = Gather(rows);
    const PlannedTensor gate_up = Keep(kept, sizes_.dtype, 2 * sizes_.segment * sizes_.hidden_dim);
    Linear(sizes_.segment, sizes_.hidden_dim, shape_.model_dim);
    const PlannedTensor activated = Work(sizes_.segment * sizes_.hidden_dim);
    stream.delta =
        SummedDelta(kept, [&] { Linear(sizes_.segment, shape_.model_dim, sizes_.hidden_dim); });
    if (kept == nullptr) return;
    KeepStream(stream, kept);
    kept->others.push_back(gate_up);
  }

  PlannedTensor Backward(const PlannedTensor& gradient, const Kept&) const override {
    const PlannedTensor drows = OutputGradient(gradient);
    const PlannedTensor dout = Gather(drows);
    const PlannedTensor dgate_up = Work(2 * sizes_.segment * sizes_.hidden_dim);
    {
      const PlannedTensor activated = Work(sizes_.segment * sizes_.hidden_dim);
      LinearBackward(sizes_.segment, shape_.model_dim, sizes_.hidden_dim, sizes_.dtype);
    }
    const PlannedTensor rows = RecomputedNorm();
    const PlannedTensor y = Gather(rows);
    const PlannedTensor dpartial = Work(sizes_.statistics, sizes_.segment * shape_.model_dim);
    LinearBackward(sizes_.segment, sizes_.hidden_dim, shape_.model_dim, sizes_.statistics);
    const PlannedTensor dy = ReduceScatter(dpartial, sizes_.statistics);
    return NormBackward(sizes_.statistics);
  }
};

class ExpertsMemory final : public PlannedBlock {
 public:
  using PlannedBlock::PlannedBlock;
  std::string_view kind() const override { return "experts"; }

  void Forward(PlannedStream& stream, std::vector<PlannedTensor>* statistics, Kept* kept,
               bool routed) const override {
    const PlannedTensor y = Norm(stream, statistics, kept);
    std::vector<PlannedTensor> routing;
    if (!routed) routing = Route(kept);
    const PlannedTensor row_weights = Work(sizes_.statistics, pairs());
    if (kept != nullptr && !routed) {
      for (int i = 0; i < 2; ++i) routing.push_back(Keep(kept, sizes_.statistics, pairs()));
    }
    stream.delta = Delta(kept);
    RunExperts(kept);
    if (kept == nullptr) return;
    if (!routed) kept->routing = std::move(routing);
    KeepStream(stream, kept);
  }

  PlannedTensor Backward(const PlannedTensor& gradient, const Kept&) const override {
    const PlannedTensor row_weights = Work(sizes_.statistics, pairs());
    const PlannedTensor y = RecomputedNorm();
    const PlannedTensor dy = Work(sizes_.statistics, sizes_.rows * shape_.model_dim);
    const PlannedTensor drow_weights = Work(sizes_.statistics, pairs());
    {
      const PlannedTensor dout = OutputGradient(gradient);
      if (is_dealt()) {
        Exchange();
      } else {
        BackwardHere();
      }
    }
    const PlannedTensor dweights = Work(sizes_.statistics, pairs());
    const PlannedTensor dlogits = Work(sizes_.statistics, sizes_.rows * shape_.experts);
    // The router's, whose output is not rounded.
    const DType wide = sizes_.statistics;
    Scratch(kernels_->Matmul({.a = wide,
                              .b = sizes_.dtype,
                              .c = wide,
                              .m = shape_.experts,
                              .n = shape_.model_dim,
                              .k = sizes_.rows}));
    Scratch(kernels_->Matmul({.a = wide,
                              .b = sizes_.dtype,
                              .c = wide,
                              .m = sizes_.rows,
                              .n = shape_.model_dim,
                              .k = shape_.experts}));
    return NormBackward(sizes_.statistics);
  }

 private:
  // (token, chosen expert).
  int64_t pairs() const { return sizes_.rows * shape_.experts_per_token; }
  bool is_dealt() const { return sizes_.expert_ranks > 1; }
  bool keeps_rows() const {
    return shape_.activation_loss_coefficient > 0 && shape_.activation_loss_on_expert_output;
  }

  ExpertMemory DealtMemory() const {
    const ExpertSizes sizes{.tokens = sizes_.rows,
                            .ranks = sizes_.expert_ranks,
                            .experts = shape_.experts,
                            .experts_per_token = shape_.experts_per_token,
                            .wave_tokens = shape_.expert_wave_tokens};
    return sizes_.routing == PlannedRouting::kWorst
               ? MostExpertMemory(sizes, shape_.model_dim, shape_.hidden_dim, sizes_.dtype)
               : BalancedExpertMemory(sizes, shape_.model_dim, shape_.hidden_dim, sizes_.dtype);
  }
  void Exchange() const {
    const PlannedTensor working = timeline_.Allocate(
        DealtMemory().working_bytes, MemoryClass::kExchange, MemoryTimeline::Rounding::kNone);
    Scratch(kernels_->GroupedMatmul(GroupsOfTokens(2 * shape_.hidden_dim)));
  }

  // Products with weights [columns, inner].
  GroupedScratchShape Groups(int64_t columns, int64_t inner) const {
    return {.operands = sizes_.dtype,
            .c = sizes_.dtype,
            .groups = shape_.experts / sizes_.expert_ranks,
            .rows = pairs(),
            .columns = columns,
            .inner = inner};
  }
  // The same with the tokens' rows, which come by index.
  GroupedScratchShape GroupsOfTokens(int64_t columns) const {
    GroupedScratchShape groups = Groups(columns, shape_.model_dim);
    groups.is_gathered = true;
    return groups;
  }
  void WeightGradients(GroupedScratchShape groups) const {
    groups.c = sizes_.statistics;
    Scratch(kernels_->GroupedWeightGradient(groups));
  }

  void RunExperts(Kept* kept) const {
    PlannedTensor kept_rows;
    if (is_dealt()) {
      if (kept != nullptr) {
        kept->others.push_back(timeline_.Allocate(
            DealtMemory().kept_bytes, MemoryClass::kActivations, MemoryTimeline::Rounding::kNone));
        if (keeps_rows()) {
          kept->others.push_back(Keep(kept, sizes_.dtype, pairs() * shape_.model_dim));
        }
      }
      Exchange();
      return;
    }
    const PlannedTensor gate_up = Keep(kept, sizes_.dtype, 2 * pairs() * shape_.hidden_dim);
    Scratch(kernels_->GroupedMatmul(GroupsOfTokens(2 * shape_.hidden_dim)));
    const PlannedTensor expert_rows =
        Keep(keeps_rows() ? kept : nullptr, sizes_.dtype, pairs() * shape_.model_dim);
    const PlannedTensor activated = Work(pairs() * shape_.hidden_dim);
    Scratch(kernels_->GroupedMatmul(Groups(shape_.model_dim, shape_.hidden_dim)));
    if (kept == nullptr) return;
    kept->others.push_back(gate_up);
    if (keeps_rows()) kept->others.push_back(expert_rows);
  }

  // Experts that are all on this rank.
  void BackwardHere() const {
    const PlannedTensor drows = Work(pairs() * shape_.model_dim);
    PlannedTensor dgate_up;
    {
      const PlannedTensor dy_rows = Work(pairs() * shape_.model_dim);
      dgate_up = Work(2 * pairs() * shape_.hidden_dim);
      {
        const PlannedTensor dactivated = Work(pairs() * shape_.hidden_dim);
        Scratch(kernels_->GroupedMatmul(Groups(shape_.hidden_dim, shape_.model_dim)));
      }
      Scratch(kernels_->GroupedMatmul(Groups(shape_.model_dim, 2 * shape_.hidden_dim)));
    }
    WeightGradients(GroupsOfTokens(2 * shape_.hidden_dim));
    const PlannedTensor activated = Work(pairs() * shape_.hidden_dim);
    WeightGradients(Groups(shape_.model_dim, shape_.hidden_dim));
  }

  std::vector<PlannedTensor> Route(const Kept* kept) const {
    const PlannedTensor logits = Work(sizes_.statistics, sizes_.rows * shape_.experts);
    Matmul(sizes_.statistics, sizes_.rows, shape_.experts, shape_.model_dim);
    std::vector<PlannedTensor> routing;
    routing.push_back(Keep(kept, sizes_.statistics, sizes_.rows * shape_.experts));
    routing.push_back(Keep(kept, sizes_.statistics, pairs()));
    routing.push_back(Keep(kept, DType::kI32, pairs()));
    routing.push_back(Keep(kept, sizes_.statistics, sizes_.rows));
    for (int i = 0; i < 2; ++i) routing.push_back(Keep(kept, DType::kI32, pairs()));
    PlannedTensor offsets = Keep(kept, DType::kI32, shape_.experts + 1);
    Scratch(kernels_->ExpertPermutation(pairs(), shape_.experts));
    // On a device the host keeps them.
    if (!is_dealt() && !sizes_.on_device()) routing.push_back(std::move(offsets));
    return routing;
  }
};

}  // namespace

void HoldBlocks(MemoryTimeline& timeline, const KernelScratch::Blocks& blocks) {
  std::vector<PlannedTensor> held;
  for (const int64_t bytes : blocks) {
    held.push_back(timeline.Allocate(bytes, MemoryClass::kWorkspace));
  }
}

RankSizes RankSizes::Of(const ModelShape& shape, const DeviceMesh& mesh, DType dtype,
                        int64_t microbatch_tokens, int64_t documents, const KernelSet& kernels) {
  const int64_t contexts = mesh.size(MeshAxis::kContext);
  const int64_t tensor = mesh.size(MeshAxis::kTensor);
  RankSizes sizes{.dtype = dtype,
                  .statistics = StatisticsDType(dtype),
                  .segment = microbatch_tokens / mesh.size(MeshAxis::kContext),
                  .tokens = microbatch_tokens,
                  .documents = documents,
                  .kernels = kernels,
                  .tensor = tensor,
                  .contexts = contexts,
                  .context_rank = mesh.coordinate(MeshAxis::kContext),
                  .documents_cross = documents % contexts != 0,
                  .expert_ranks = mesh.experts().size(),
                  .heads = shape.heads / tensor,
                  .kv_heads = shape.kv_heads / tensor,
                  .channels = shape.channels / tensor,
                  .hidden_dim = shape.hidden_dim / tensor,
                  .vocabulary = shape.vocabulary / tensor};
  sizes.rows = sizes.segment / tensor;
  std::vector<int32_t> offsets;
  for (int64_t d = 0; contexts > 1 && d <= documents; ++d) {
    offsets.push_back(static_cast<int32_t>(d * (microbatch_tokens / documents)));
  }
  if (contexts > 1) {
    sizes.swaps_halves = ContextAttentionPlan(offsets, static_cast<int>(contexts)).swaps_halves();
  }
  return sizes;
}

BlockMemories MakeBlockMemories(MemoryTimeline& timeline, const ModelShape& shape,
                                const DeviceMesh&, const RankSizes& sizes) {
  return {.attention = std::make_unique<AttentionMemory>(timeline, shape, sizes),
          .mamba = std::make_unique<MambaMemory>(timeline, shape, sizes),
          .feed_forward = std::make_unique<FeedForwardMemory>(timeline, shape, sizes),
          .experts = std::make_unique<ExpertsMemory>(timeline, shape, sizes)};
}

}  // namespace plait
