#include "model/language_model.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/elementwise.h"
#include "model/attention_block.h"
#include "model/feed_forward_block.h"
#include "model/mamba_block.h"
#include "model/mixture_of_experts_block.h"
#include "parallel/host_collectives.h"

namespace plait {
namespace {

double At(const Tensor& tensor, int64_t i) {
  return tensor.dtype() == DType::kF64 ? tensor.data<double>()[i]
                                       : static_cast<double>(tensor.data<float>()[i]);
}

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
    const double value = -At(microbatch.token_weight, t) / counts.weight_sum;
    if (dtype == DType::kF64) {
      coefficients.data<double>()[t] = value;
    } else {
      coefficients.data<float>()[t] = static_cast<float>(value);
    }
  }
  return coefficients;
}

// What the segment contributes.
double SegmentLoss(const Microbatch& microbatch, const Tensor& log_probability,
                   const StepCounts& counts) {
  double sum = 0;
  for (int64_t t = 0; t < microbatch.layout.tokens; ++t) {
    const double weight = At(microbatch.token_weight, t);
    if (weight != 0) sum -= weight * At(log_probability, t);
  }
  return counts.weight_sum > 0 ? sum / counts.weight_sum : 0.0;
}

}  // namespace

absl::StatusOr<Microbatch> Microbatch::Create(const Tensor& tokens, const Tensor& targets,
                                              const Tensor& token_weight,
                                              const Tensor& document_offsets, DType dtype,
                                              const TokenPart& part) {
  const int64_t count = tokens.num_elements();
  if (targets.num_elements() != count || token_weight.num_elements() != count) {
    return absl::InvalidArgumentError(absl::StrCat("microbatch: ", count, " tokens, but ",
                                                   targets.num_elements(), " targets and ",
                                                   token_weight.num_elements(), " weights"));
  }
  Microbatch microbatch;
  PLAIT_ASSIGN_OR_RETURN(microbatch.layout, SequenceLayout::Create(tokens, document_offsets,
                                                                   StatisticsDType(dtype), part));
  const int64_t begin = microbatch.layout.segment_begin, end = begin + microbatch.layout.tokens;
  Tensor all_targets = targets.Clone();
  for (int64_t t = 0; t < count; ++t) {
    int32_t& target = all_targets.data<int32_t>()[t];
    if (target >= 0) continue;
    if (At(token_weight, t) != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("microbatch: token ", t, " has a weight but no target"));
    }
    target = 0;  // never counted; any id of the vocabulary will do
  }
  microbatch.tokens = tokens.Slice(begin, end);
  microbatch.targets = all_targets.Slice(begin, end);
  microbatch.token_weight = token_weight.Slice(begin, end);
  return microbatch;
}

LanguageModel::LanguageModel(const ModelShape& shape, DType dtype, Recomputation recomputation,
                             const DeviceMesh& mesh)
    : mesh_(mesh),
      shape_(shape),
      dtype_(dtype),
      embedding_(shape, dtype, mesh),
      stack_(MakeBlocks(shape, dtype, mesh), /*first_unit=*/1, recomputation),
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
}

std::unique_ptr<LanguageModel> LanguageModel::Create(const ModelShape& shape, DType dtype,
                                                     Recomputation recomputation,
                                                     const DeviceMesh& mesh) {
  return std::unique_ptr<LanguageModel>(new LanguageModel(shape, dtype, recomputation, mesh));
}

Parameter& LanguageModel::head_weight() {
  return shape_.tied_embeddings ? embedding_.weight().parameter : lm_head_.parameter;
}

std::vector<ParameterUnit> LanguageModel::Units() {
  std::vector<ParameterUnit> units;
  // A tied embedding's gradient begins in the head and ends in the look-up.
  units.push_back({.name = "embedding",
                   .parameters = {&embedding_.weight().parameter},
                   .held = shape_.tied_embeddings});
  for (int i = 0; i < stack_.size(); ++i) {
    ParameterUnit unit{stack_.block(i).name(), {}};
    for (LayerParameter* parameter : stack_.block(i).parameters())
      unit.parameters.push_back(&parameter->parameter);
    units.push_back(std::move(unit));
  }
  std::vector<LayerParameter*> last;
  final_norm_.AppendParameters(last);
  if (!shape_.tied_embeddings) last.push_back(&lm_head_);
  ParameterUnit head{"head", {}};
  for (LayerParameter* parameter : last) head.parameters.push_back(&parameter->parameter);
  units.push_back(std::move(head));
  return units;
}

absl::Status LanguageModel::Initialize(ParameterSharder& sharder, uint64_t seed) {
  std::map<std::string, Initialization> initializations;
  std::vector<LayerParameter*> all = {&embedding_.weight(), &lm_head_};
  for (int i = 0; i < stack_.size(); ++i) {
    for (LayerParameter* parameter : stack_.block(i).parameters()) all.push_back(parameter);
  }
  final_norm_.AppendParameters(all);
  for (const LayerParameter* parameter : all) {
    initializations[parameter->parameter.name] = parameter->initialization;
  }
  for (ShardedParameter& parameter : sharder.sharded()) {
    const auto found = initializations.find(parameter.name);
    PLAIT_CHECK(found != initializations.end());
    InitializeMaster(parameter, found->second, seed);
  }
  return sharder.RefreshComputeValues();
}

absl::StatusOr<Tensor> LanguageModel::Forward(Execution& execution, ParameterSharder& sharder,
                                              const Tensor& tokens, const SequenceLayout& layout,
                                              std::vector<BlockCache>* caches, Saved* saved) {
  PLAIT_RETURN_IF_ERROR(sharder.Unshard(execution, 0));
  PLAIT_RETURN_IF_ERROR(sharder.Prefetch(execution, 1));
  ResidualStream stream;
  PLAIT_ASSIGN_OR_RETURN(stream.residual, embedding_.Forward(execution, tokens));
  if (!shape_.tied_embeddings) PLAIT_RETURN_IF_ERROR(sharder.Reshard(execution, 0));
  PLAIT_RETURN_IF_ERROR(stack_.Forward(execution, sharder, layout, caches, stream,
                                       saved != nullptr ? &saved->stack : nullptr));
  PLAIT_RETURN_IF_ERROR(sharder.Unshard(execution, head_unit()));
  RowStatisticsPair* last = saved != nullptr ? &saved->stack.output_statistics.back() : nullptr;
  PLAIT_ASSIGN_OR_RETURN(Tensor hidden,
                         final_norm_.Forward(execution, stream, last,
                                             saved != nullptr ? &saved->inverse_rms : nullptr));
  if (saved != nullptr) saved->residual_sum = stream.residual;
  return hidden;
}

absl::StatusOr<LanguageModel::Saved> LanguageModel::ForwardForLoss(Execution& execution,
                                                                   ParameterSharder& sharder,
                                                                   const Microbatch& microbatch,
                                                                   Tensor* hidden) {
  Saved saved;
  PLAIT_ASSIGN_OR_RETURN(*hidden, Forward(execution, sharder, microbatch.tokens, microbatch.layout,
                                          /*caches=*/nullptr, &saved));
  if (!shape_.activation_loss_on_residual || shape_.activation_loss_coefficient == 0) return saved;
  // The stream after block i is the sum that the next norm saw.
  for (int i = 0; i < stack_.size(); ++i) {
    const bool last = i + 1 == stack_.size();
    const Tensor& sum = last ? saved.residual_sum
                        : saved.stack.blocks[i + 1] != nullptr
                            ? saved.stack.blocks[i + 1]->residual_sum
                            : saved.stack.inputs[i + 1];
    RowStatisticsPair statistics{
        execution.Empty(StatisticsDType(dtype_), {microbatch.layout.rows}),
        execution.Empty(StatisticsDType(dtype_), {microbatch.layout.rows})};
    PLAIT_RETURN_IF_ERROR(
        RowStatistics(execution, {.x = sum.matrix(),
                                  .square_sum = statistics.square_sum.vector(),
                                  .absolute_max = statistics.absolute_max.vector()}));
    saved.residual_statistics.push_back(std::move(statistics));
  }
  return saved;
}

absl::StatusOr<AuxiliaryLosses> LanguageModel::Auxiliary(const SequenceLayout& layout,
                                                         const Saved& saved,
                                                         const StepCounts& counts) const {
  std::vector<BlockObservation> blocks;
  for (int i = 0; i < stack_.size(); ++i) {
    blocks.push_back(
        {.name = stack_.block(i).name(),
         .output = &saved.stack.output_statistics[i],
         .residual = saved.residual_statistics.empty() ? nullptr : &saved.residual_statistics[i],
         .routing = stack_.routing(saved.stack, i)});
  }
  std::vector<double> choices = ExpertChoices(shape_, layout, blocks);
  if (shape_.balance_loss_coefficient > 0 && mesh_.microbatch().size() > 1 && shape_.experts > 0) {
    PLAIT_RETURN_IF_ERROR(AllReduceOnHost(
        mesh_.microbatch(), {choices.data(), DType::kF64, shape_.experts}, ReduceOperation::kSum));
  }
  return ComputeAuxiliaryLosses(shape_, layout, blocks, choices, counts);
}

absl::Status LanguageModel::Backward(Execution& execution, ParameterSharder& sharder,
                                     const Microbatch& microbatch, const AuxiliaryLosses& auxiliary,
                                     const Tensor& dhidden, Saved& saved) {
  Tensor gradient = execution.Empty(dhidden.dtype(), dhidden.shape());
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
  PLAIT_ASSIGN_OR_RETURN(gradient,
                         stack_.Backward(execution, sharder, microbatch.layout, auxiliary.factors,
                                         std::move(gradient), saved.stack));
  if (!shape_.tied_embeddings) PLAIT_RETURN_IF_ERROR(sharder.PrepareGradients(execution, 0));
  PLAIT_RETURN_IF_ERROR(embedding_.Backward(execution, gradient, microbatch.tokens));
  PLAIT_RETURN_IF_ERROR(sharder.ReduceGradients(execution, 0));
  return sharder.Reshard(execution, 0);
}

absl::StatusOr<MicrobatchLosses> LanguageModel::LossAndGradient(Execution& execution,
                                                                ParameterSharder& sharder,
                                                                const Microbatch& microbatch,
                                                                const StepCounts& counts) {
  Tensor hidden;
  PLAIT_ASSIGN_OR_RETURN(Saved saved, ForwardForLoss(execution, sharder, microbatch, &hidden));
  PLAIT_ASSIGN_OR_RETURN(AuxiliaryLosses auxiliary, Auxiliary(microbatch.layout, saved, counts));
  const Tensor coefficients = LossCoefficients(microbatch, counts, StatisticsDType(dtype_));
  if (shape_.tied_embeddings) PLAIT_RETURN_IF_ERROR(sharder.PrepareGradients(execution, 0));
  PLAIT_RETURN_IF_ERROR(sharder.PrepareGradients(execution, head_unit()));
  PLAIT_RETURN_IF_ERROR(sharder.Prefetch(execution, head_unit() - 1));
  PLAIT_ASSIGN_OR_RETURN(
      TokenLogProbabilityHead::LossGradient head,
      head_.LossAndGradient(execution, hidden, microbatch.targets, coefficients));
  hidden = Tensor();
  PLAIT_RETURN_IF_ERROR(Backward(execution, sharder, microbatch, auxiliary, head.dx, saved));
  return MicrobatchLosses{
      .language_model = OwnLanguageModelLoss(microbatch, head.log_probability, counts),
      .balance = auxiliary.balance,
      .z = auxiliary.z,
      .activation = auxiliary.activation,
      .watch = std::move(auxiliary.watch),
      .log_probability = std::move(head.log_probability)};
}

// Tensor ranks know the same log-probabilities: the first of them counts.
double LanguageModel::OwnLanguageModelLoss(const Microbatch& microbatch,
                                           const Tensor& log_probability,
                                           const StepCounts& counts) const {
  if (mesh_.coordinate(MeshAxis::kTensor) != 0) return 0;
  return SegmentLoss(microbatch, log_probability, counts);
}

// Where no backward follows.
absl::Status LanguageModel::ReshardAfterForward(Execution& execution, ParameterSharder& sharder) {
  PLAIT_RETURN_IF_ERROR(sharder.Reshard(execution, head_unit()));
  return sharder.Reshard(execution, 0);
}

absl::StatusOr<Tensor> LanguageModel::LogProbabilities(Execution& execution,
                                                       ParameterSharder& sharder,
                                                       const Microbatch& microbatch) {
  PLAIT_ASSIGN_OR_RETURN(const Tensor hidden,
                         Forward(execution, sharder, microbatch.tokens, microbatch.layout,
                                 /*caches=*/nullptr, /*saved=*/nullptr));
  PLAIT_ASSIGN_OR_RETURN(Tensor log_probability,
                         head_.LogProbabilities(execution, hidden, microbatch.targets));
  PLAIT_RETURN_IF_ERROR(ReshardAfterForward(execution, sharder));
  return log_probability;
}

absl::StatusOr<MicrobatchLosses> LanguageModel::Losses(Execution& execution,
                                                       ParameterSharder& sharder,
                                                       const Microbatch& microbatch,
                                                       const StepCounts& counts) {
  Tensor hidden;
  PLAIT_ASSIGN_OR_RETURN(Saved saved, ForwardForLoss(execution, sharder, microbatch, &hidden));
  PLAIT_ASSIGN_OR_RETURN(AuxiliaryLosses auxiliary, Auxiliary(microbatch.layout, saved, counts));
  PLAIT_ASSIGN_OR_RETURN(Tensor log_probability,
                         head_.LogProbabilities(execution, hidden, microbatch.targets));
  PLAIT_RETURN_IF_ERROR(ReshardAfterForward(execution, sharder));
  return MicrobatchLosses{
      .language_model = OwnLanguageModelLoss(microbatch, log_probability, counts),
      .balance = auxiliary.balance,
      .z = auxiliary.z,
      .activation = auxiliary.activation,
      .watch = std::move(auxiliary.watch),
      .log_probability = std::move(log_probability)};
}

}  // namespace plait
