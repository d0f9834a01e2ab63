#include "model/language_model.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/number_at.h"
#include "base/status_macros.h"
#include "kernels/elementwise.h"
#include "model/attention_block.h"
#include "model/feed_forward_block.h"
#include "model/mamba_block.h"
#include "model/mixture_of_experts_block.h"
#include "parallel/host_collectives.h"

namespace plait {
namespace {

std::vector<std::unique_ptr<Block>> MakeBlocks(const ModelShape& shape, DType dtype,
                                               const DeviceMesh& mesh) {
  std::vector<std::unique_ptr<Block>> blocks;
  for (size_t i = 0; i < shape.layers.size(); ++i) {
    const std::string layer_name = absl::StrCat("model.layers.", i);
    if (shape.layers[i].mixer == MixerKind::kAttention) {
      blocks.push_back(std::make_unique<AttentionBlock>(shape, layer_name, dtype, mesh));
    } else {
      blocks.push_back(std::make_unique<MambaBlock>(shape, layer_name, dtype, mesh));
    }
    if (shape.layers[i].feed_forward == FeedForwardKind::kExperts) {
      blocks.push_back(std::make_unique<MixtureOfExpertsBlock>(shape, layer_name, dtype, mesh));
    } else {
      blocks.push_back(std::make_unique<FeedForwardBlock>(shape, layer_name, dtype, mesh));
    }
  }
  return blocks;
}

// d(loss) / d(log probability) per token.
Tensor LossCoefficients(const Microbatch& microbatch, const StepCounts& counts, DType dtype) {
  Tensor coefficients = Tensor::OnHost(dtype, {microbatch.layout.tokens});
  if (counts.weight_sum == 0) return coefficients;
  for (int64_t t = 0; t < microbatch.layout.tokens; ++t) {
    SetNumber(coefficients, t, -NumberAt(microbatch.token_weight, t) / counts.weight_sum);
  }
  return coefficients;
}

MicrobatchLosses LossesOf(double language_model, const AuxiliaryLosses& auxiliary,
                          ActivationWatch watch, Tensor log_probability) {
  return {.language_model = language_model,
          .balance = auxiliary.balance,
          .z = auxiliary.z,
          .activation = auxiliary.activation,
          .watch = std::move(watch),
          .log_probability = std::move(log_probability)};
}

}  // namespace

LanguageModel::LanguageModel(const ModelShape& shape, DType dtype, Recomputation recomputation,
                             const DeviceMesh& mesh, std::vector<BlockRange> parts)
    : mesh_(mesh),
      shape_(shape),
      dtype_(dtype),
      embedding_(shape, dtype, mesh),
      blocks_(MakeBlocks(shape, dtype, mesh)),
      final_norm_(shape.family == ModelFamily::kLlama ? "model.norm" : "model.final_layernorm",
                  shape.model_dim, shape.rms_norm_epsilon, dtype),
      head_(head_weight(), mesh) {
  if (!shape.tied_embeddings) {
    lm_head_ = {
        {.name = "lm_head.weight", .shape = {shape.vocabulary, shape.model_dim}, .dtype = dtype},
        {Initialization::Kind::kNormal, shape.initializer_range}};
    Cut(lm_head_.parameter, /*dim=*/0, /*segments=*/1, mesh.coordinate(MeshAxis::kTensor),
        mesh.size(MeshAxis::kTensor));
  }
  const int64_t stages = mesh.size(MeshAxis::kPipeline);
  if (parts.empty()) parts = {{0, shape.num_blocks()}};
  const auto num_parts = static_cast<int64_t>(parts.size());
  PLAIT_CHECK(num_parts % stages == 0 && parts.back().end == shape.num_blocks());
  for (int64_t p = mesh.coordinate(MeshAxis::kPipeline); p < num_parts; p += stages) {
    const bool is_last = p + 1 == num_parts;
    std::vector<Block*> own;
    for (int64_t i = parts[p].begin; i < parts[p].end; ++i) own.push_back(blocks_[i].get());
    const auto first_unit = static_cast<int>(parts[p].begin) + 1;
    const auto end_unit = static_cast<int>(parts[p].end) + (is_last ? 2 : 1);
    parts_.push_back({.stack = BlockStack(std::move(own), first_unit, end_unit, recomputation),
                      .first_block = parts[p].begin,
                      .is_first = p == 0,
                      .is_last = is_last});
  }
}

std::unique_ptr<LanguageModel> LanguageModel::Create(const ModelShape& shape, DType dtype,
                                                     Recomputation recomputation,
                                                     const DeviceMesh& mesh,
                                                     std::vector<BlockRange> parts) {
  return std::unique_ptr<LanguageModel>(
      new LanguageModel(shape, dtype, recomputation, mesh, std::move(parts)));
}

Parameter& LanguageModel::head_weight() {
  return shape_.tied_embeddings ? embedding_.weight().parameter : lm_head_.parameter;
}

std::vector<ParameterUnit> LanguageModel::Units() {
  std::vector<bool> is_own(blocks_.size(), false);
  for (const Part& part : parts_) {
    std::fill_n(is_own.begin() + part.first_block, part.stack.size(), true);
  }
  std::vector<ParameterUnit> units;
  // A tied embedding's gradient begins in the head and ends in the look-up.
  units.push_back({.name = "embedding",
                   .parameters = {&embedding_.weight().parameter},
                   .held = shape_.tied_embeddings,
                   .is_elsewhere = !parts_.front().is_first});
  for (size_t i = 0; i < blocks_.size(); ++i) {
    ParameterUnit unit{.name = blocks_[i]->name(), .parameters = {}, .is_elsewhere = !is_own[i]};
    for (LayerParameter* parameter : blocks_[i]->parameters())
      unit.parameters.push_back(&parameter->parameter);
    units.push_back(std::move(unit));
  }
  std::vector<LayerParameter*> last;
  final_norm_.AppendParameters(last);
  if (!shape_.tied_embeddings) last.push_back(&lm_head_);
  ParameterUnit head{.name = "head", .parameters = {}, .is_elsewhere = !parts_.back().is_last};
  for (LayerParameter* parameter : last) head.parameters.push_back(&parameter->parameter);
  units.push_back(std::move(head));
  return units;
}

absl::Status LanguageModel::Initialize(ParameterSharder& sharder, uint64_t seed) {
  std::map<std::string, Initialization> initializations;
  std::vector<LayerParameter*> all = {&embedding_.weight(), &lm_head_};
  for (const auto& block : blocks_) {
    for (LayerParameter* parameter : block->parameters()) all.push_back(parameter);
  }
  final_norm_.AppendParameters(all);
  for (const LayerParameter* parameter : all) {
    initializations[parameter->parameter.name] = parameter->initialization;
  }
  for (ShardedParameter& parameter : sharder.sharded()) {
    const auto found = initializations.find(parameter.name);
    PLAIT_CHECK(found != initializations.end());
    PLAIT_RETURN_IF_ERROR(InitializeMaster(sharder.execution(), parameter, found->second, seed));
  }
  return sharder.RefreshComputeValues();
}

absl::StatusOr<PartActivations> LanguageModel::ForwardPart(
    Execution& execution, ParameterSharder& sharder, int chunk, const Tensor& tokens,
    const SequenceLayout& layout, PartActivations input, std::vector<BlockCache>* caches,
    Saved* saved) {
  Part& part = parts_[chunk];
  ResidualStream stream = std::move(input.stream);
  if (part.is_first) {
    PLAIT_RETURN_IF_ERROR(sharder.Unshard(execution, 0));
    PLAIT_RETURN_IF_ERROR(sharder.Prefetch(execution, 1));
    PLAIT_ASSIGN_OR_RETURN(stream.residual, embedding_.Forward(execution, tokens));
    if (!shape_.tied_embeddings) PLAIT_RETURN_IF_ERROR(sharder.Reshard(execution, 0));
  }
  PLAIT_RETURN_IF_ERROR(part.stack.Forward(execution, sharder, layout, caches, stream,
                                           saved != nullptr ? &saved->stack : nullptr));
  PartActivations output{.sums = std::move(input.sums)};
  RowStatisticsPair last_output;
  if (part.is_last) {
    PLAIT_RETURN_IF_ERROR(sharder.Unshard(execution, head_unit()));
    PLAIT_ASSIGN_OR_RETURN(
        output.hidden,
        final_norm_.Forward(execution, stream, saved != nullptr ? &last_output : nullptr,
                            saved != nullptr ? &saved->inverse_rms : nullptr));
    if (saved != nullptr) saved->residual_sum = stream.residual;
  } else {
    output.stream = std::move(stream);
  }
  if (saved != nullptr) {
    saved->sums = std::move(output.sums);
    PLAIT_RETURN_IF_ERROR(ObservePart(execution, part, layout, last_output, *saved));
    output.sums = saved->sums;
  }
  return output;
}

ActivationWatch LanguageModel::EmptyWatch() const {
  const auto experts = static_cast<size_t>(shape_.experts);
  ActivationWatch watch;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    watch.blocks.push_back({.name = blocks_[i]->name()});
    if (i % 2 == 0 || shape_.layers[i / 2].feed_forward != FeedForwardKind::kExperts) continue;
    watch.experts.push_back({.name = blocks_[i]->name(),
                             .tokens = std::vector<int64_t>(experts),
                             .square_sum = std::vector<double>(experts),
                             .absolute_max = std::vector<double>(experts)});
  }
  return watch;
}

absl::StatusOr<RowStatisticsPair> LanguageModel::StatisticsOf(Execution& execution,
                                                              const Tensor& rows) const {
  const DType dtype = StatisticsDType(dtype_);
  RowStatisticsPair statistics{execution.Empty(dtype, {rows.shape()[0]}),
                               execution.Empty(dtype, {rows.shape()[0]})};
  PLAIT_RETURN_IF_ERROR(
      RowStatistics(execution, {.x = rows.matrix(),
                                .square_sum = statistics.square_sum.vector(),
                                .absolute_max = statistics.absolute_max.vector()}));
  return statistics;
}

// last_output: of the part's last block, measured by the final norm.
absl::Status LanguageModel::ObservePart(Execution& execution, const Part& part,
                                        const SequenceLayout& layout,
                                        const RowStatisticsPair& last_output, Saved& saved) const {
  const bool residual =
      shape_.activation_loss_on_residual && shape_.activation_loss_coefficient != 0;
  const int size = part.stack.size();
  std::vector<RowStatisticsPair> residuals(static_cast<size_t>(size) + 1);
  std::vector<BlockObservation> blocks;
  // Block i measured the output of the block before, and the stream after that.
  for (int i = 0; i <= size; ++i) {
    const int64_t block = part.first_block + i;
    const bool is_end = i == size;
    if (is_end && !part.is_last) break;
    if (block > 0) {
      const RowStatisticsPair* output = is_end ? &last_output : &saved.stack.delta_statistics[i];
      BlockObservation before{.block = block - 1, .output = output};
      if (residual) {
        PLAIT_ASSIGN_OR_RETURN(
            residuals[i],
            StatisticsOf(execution,
                         is_end ? saved.residual_sum : part.stack.residual_sum(saved.stack, i)));
        before.residual = &residuals[i];
      }
      blocks.push_back(before);
    }
    if (!is_end) {
      blocks.push_back({.block = block, .routing = part.stack.routing(saved.stack, i)});
    }
  }
  saved.watch = EmptyWatch();
  PLAIT_ASSIGN_OR_RETURN(saved.observation, Observation::Start(execution, shape_, layout, blocks));
  return part.is_last ? absl::OkStatus() : FinishObservation(layout, saved);
}

absl::StatusOr<std::vector<double>> LanguageModel::MicrobatchChoices(
    const AuxiliarySums& sums) const {
  std::vector<double> choices = sums.choices;
  if (shape_.balance_loss_coefficient > 0 && mesh_.microbatch().size() > 1 && shape_.experts > 0) {
    PLAIT_RETURN_IF_ERROR(AllReduceOnHost(
        mesh_.microbatch(), {choices.data(), DType::kF64, shape_.experts}, ReduceOperation::kSum));
  }
  return choices;
}

absl::Status LanguageModel::PrepareHead(Execution& execution, ParameterSharder& sharder) {
  if (shape_.tied_embeddings) PLAIT_RETURN_IF_ERROR(sharder.PrepareGradients(execution, 0));
  PLAIT_RETURN_IF_ERROR(sharder.Unshard(execution, head_unit()));
  PLAIT_RETURN_IF_ERROR(sharder.PrepareGradients(execution, head_unit()));
  return sharder.Prefetch(execution, head_unit() - 1);
}

absl::StatusOr<LanguageModel::HeadLoss> LanguageModel::HeadLossAndGradient(
    Execution& execution, const Tensor& hidden, const Microbatch& microbatch,
    const StepCounts& counts) {
  PLAIT_ASSIGN_OR_RETURN(
      const Tensor coefficients,
      execution.ToDevice(LossCoefficients(microbatch, counts, StatisticsDType(dtype_))));
  PLAIT_ASSIGN_OR_RETURN(
      TokenLogProbabilityHead::LossGradient head,
      head_.LossAndGradient(execution, hidden, microbatch.targets, coefficients));
  PLAIT_ASSIGN_OR_RETURN(HostCopy log_probability, execution.StartToHost(head.log_probability));
  return HeadLoss{.log_probability = std::move(log_probability), .dhidden = std::move(head.dx)};
}

absl::StatusOr<Tensor> LanguageModel::BackwardPart(Execution& execution, ParameterSharder& sharder,
                                                   int chunk, const Microbatch& microbatch,
                                                   const AuxiliaryLosses& auxiliary,
                                                   Tensor gradient, Saved& saved) {
  Part& part = parts_[chunk];
  if (part.is_last) {
    const Tensor dhidden = std::move(gradient);
    gradient = execution.Empty(dhidden.dtype(), dhidden.shape());
    PLAIT_RETURN_IF_ERROR(final_norm_.Backward(execution, dhidden.matrix(),
                                               saved.residual_sum.matrix(),
                                               saved.inverse_rms.vector(), {}, gradient.matrix()));
    if (auxiliary.final_residual_factor != 0) {
      PLAIT_RETURN_IF_ERROR(ScaledAdd(execution, {.a = gradient.matrix(),
                                                  .b = saved.residual_sum.matrix(),
                                                  .scale = 2 * auxiliary.final_residual_factor,
                                                  .row_scale = microbatch.layout.real.vector(),
                                                  .out = gradient.matrix()}));
    }
    PLAIT_RETURN_IF_ERROR(sharder.ReduceGradients(execution, head_unit()));
    PLAIT_RETURN_IF_ERROR(sharder.Reshard(execution, head_unit()));
  }
  const auto factors =
      std::span(auxiliary.factors)
          .subspan(static_cast<size_t>(part.first_block), static_cast<size_t>(part.stack.size()));
  PLAIT_ASSIGN_OR_RETURN(gradient, part.stack.Backward(execution, sharder, microbatch.layout,
                                                       factors, std::move(gradient), saved.stack));
  if (!part.is_first) return gradient;
  if (!shape_.tied_embeddings) PLAIT_RETURN_IF_ERROR(sharder.PrepareGradients(execution, 0));
  PLAIT_RETURN_IF_ERROR(embedding_.Backward(execution, gradient, microbatch.tokens));
  PLAIT_RETURN_IF_ERROR(sharder.ReduceGradients(execution, 0));
  PLAIT_RETURN_IF_ERROR(sharder.Reshard(execution, 0));
  return Tensor();
}

absl::StatusOr<Tensor> LanguageModel::HeadLogProbabilities(Execution& execution,
                                                           ParameterSharder& sharder,
                                                           const Tensor& hidden,
                                                           const Microbatch& microbatch) {
  PLAIT_ASSIGN_OR_RETURN(Tensor log_probability,
                         head_.LogProbabilities(execution, hidden, microbatch.targets));
  PLAIT_RETURN_IF_ERROR(sharder.Reshard(execution, head_unit()));
  if (shape_.tied_embeddings) PLAIT_RETURN_IF_ERROR(sharder.Reshard(execution, 0));
  return execution.ToHost(log_probability);
}

double LanguageModel::LanguageModelLoss(const Microbatch& microbatch, const Tensor& log_probability,
                                        const StepCounts& counts) const {
  const double sum = WeightedNegativeLogLikelihood(mesh_, microbatch, log_probability);
  return counts.weight_sum > 0 ? sum / counts.weight_sum : 0.0;
}

absl::StatusOr<Tensor> LanguageModel::Forward(Execution& execution, ParameterSharder& sharder,
                                              const Tensor& tokens, const SequenceLayout& layout,
                                              std::vector<BlockCache>* caches, Saved* saved) {
  PLAIT_CHECK(parts_.front().is_first && parts_.front().is_last);
  PLAIT_ASSIGN_OR_RETURN(PartActivations output, ForwardPart(execution, sharder, 0, tokens, layout,
                                                             Beginning(), caches, saved));
  return std::move(output.hidden);
}

absl::StatusOr<AuxiliaryLosses> LanguageModel::Auxiliary(Execution& execution,
                                                         const SequenceLayout& layout, Saved& saved,
                                                         const StepCounts& counts) const {
  PLAIT_RETURN_IF_ERROR(FinishObservation(layout, saved));
  PLAIT_ASSIGN_OR_RETURN(const std::vector<double> choices, MicrobatchChoices(saved.sums));
  return ComputeAuxiliaryLosses(execution, shape_, layout, saved.sums, choices, counts);
}

absl::Status LanguageModel::Backward(Execution& execution, ParameterSharder& sharder,
                                     const Microbatch& microbatch, const AuxiliaryLosses& auxiliary,
                                     const Tensor& dhidden, Saved& saved) {
  return BackwardPart(execution, sharder, 0, microbatch, auxiliary, dhidden, saved).status();
}

absl::StatusOr<MicrobatchLosses> LanguageModel::LossAndGradient(Execution& execution,
                                                                ParameterSharder& sharder,
                                                                const Microbatch& microbatch,
                                                                const StepCounts& counts) {
  Saved saved;
  PLAIT_ASSIGN_OR_RETURN(const Tensor hidden, Forward(execution, sharder, microbatch.tokens,
                                                      microbatch.layout, nullptr, &saved));
  PLAIT_RETURN_IF_ERROR(PrepareHead(execution, sharder));
  PLAIT_ASSIGN_OR_RETURN(HeadLoss head, HeadLossAndGradient(execution, hidden, microbatch, counts));
  PLAIT_ASSIGN_OR_RETURN(const AuxiliaryLosses auxiliary,
                         Auxiliary(execution, microbatch.layout, saved, counts));
  PLAIT_RETURN_IF_ERROR(Backward(execution, sharder, microbatch, auxiliary, head.dhidden, saved));
  PLAIT_ASSIGN_OR_RETURN(Tensor log_probability, head.log_probability.Wait());
  const double language_model = LanguageModelLoss(microbatch, log_probability, counts);
  return LossesOf(language_model, auxiliary, std::move(saved.watch), std::move(log_probability));
}

absl::StatusOr<Tensor> LanguageModel::LogProbabilities(Execution& execution,
                                                       ParameterSharder& sharder,
                                                       const Microbatch& microbatch) {
  PLAIT_ASSIGN_OR_RETURN(const Tensor hidden, Forward(execution, sharder, microbatch.tokens,
                                                      microbatch.layout, nullptr, nullptr));
  return HeadLogProbabilities(execution, sharder, hidden, microbatch);
}

absl::StatusOr<MicrobatchLosses> LanguageModel::Losses(Execution& execution,
                                                       ParameterSharder& sharder,
                                                       const Microbatch& microbatch,
                                                       const StepCounts& counts) {
  Saved saved;
  PLAIT_ASSIGN_OR_RETURN(const Tensor hidden, Forward(execution, sharder, microbatch.tokens,
                                                      microbatch.layout, nullptr, &saved));
  PLAIT_ASSIGN_OR_RETURN(const AuxiliaryLosses auxiliary,
                         Auxiliary(execution, microbatch.layout, saved, counts));
  PLAIT_ASSIGN_OR_RETURN(Tensor log_probability,
                         HeadLogProbabilities(execution, sharder, hidden, microbatch));
  const double language_model = LanguageModelLoss(microbatch, log_probability, counts);
  return LossesOf(language_model, auxiliary, std::move(saved.watch), std::move(log_probability));
}

}  // namespace plait
