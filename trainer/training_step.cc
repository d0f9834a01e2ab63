#include "trainer/training_step.h"

#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "optim/finite_agreement.h"
#include "optim/gradient_clipping.h"
#include "parallel/host_collectives.h"
#include "trainer/leaf_sums.h"
#include "trainer/microbatch_flow.h"

namespace plait {
namespace {

// Every rank's numbers in one array: sums first, then maxima.
absl::Status ReduceWatch(Communicator& ranks, ActivationWatch& watch) {
  if (ranks.size() == 1) return absl::OkStatus();
  std::vector<double> sums, maxima;
  for (const BlockActivations& block : watch.blocks) {
    sums.insert(sums.end(), {block.square_sum, block.elements});
    maxima.push_back(block.absolute_max);
  }
  for (const ExpertActivations& layer : watch.experts) {
    sums.insert(sums.end(), layer.tokens.begin(), layer.tokens.end());
    sums.insert(sums.end(), layer.square_sum.begin(), layer.square_sum.end());
    maxima.insert(maxima.end(), layer.absolute_max.begin(), layer.absolute_max.end());
    maxima.insert(maxima.end(), {layer.largest_rank_load, static_cast<double>(layer.waves),
                                 static_cast<double>(layer.recomputed_waves)});
  }
  for (auto [values, operation] :
       {std::pair(&sums, ReduceOperation::kSum), std::pair(&maxima, ReduceOperation::kMax)}) {
    PLAIT_RETURN_IF_ERROR(AllReduceOnHost(
        ranks, {values->data(), DType::kF64, static_cast<int64_t>(values->size())}, operation));
  }
  const double* sum = sums.data();
  const double* maximum = maxima.data();
  for (BlockActivations& block : watch.blocks) {
    block.square_sum = *sum++;
    block.elements = *sum++;
    block.absolute_max = *maximum++;
  }
  for (ExpertActivations& layer : watch.experts) {
    for (int64_t& tokens : layer.tokens) tokens = static_cast<int64_t>(*sum++);
    for (double& square_sum : layer.square_sum) square_sum = *sum++;
    for (double& absolute_max : layer.absolute_max) absolute_max = *maximum++;
    layer.largest_rank_load = *maximum++;
    layer.waves = static_cast<int64_t>(*maximum++);
    layer.recomputed_waves = static_cast<int64_t>(*maximum++);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StepResult> TrainingStep::Run(std::span<const Batch> microbatches,
                                             double learning_rate) {
  ParameterSharder& sharder = *runtime_.sharder;
  StepResult result;

  // 1. What every loss is divided by, known before the first forward pass.
  PLAIT_ASSIGN_OR_RETURN(result.counts, ReduceCounts(microbatches));

  // 2. Forward and backward of every microbatch, in the order of the pipeline's schedule; gradients
  // add up.
  PLAIT_RETURN_IF_ERROR(sharder.ZeroGradients());
  std::vector<MicrobatchLosses> losses(microbatches.size());
  MicrobatchFlow flow(execution_, runtime_, [&](int64_t j) {
    const Batch& batch = microbatches[static_cast<size_t>(j)];
    return Microbatch::Create(batch.tokens, batch.targets, batch.token_weight,
                              batch.document_offsets, runtime_.model->dtype(),
                              TokenPart::Of(*runtime_.mesh));
  });
  for (const PipelineAction& action :
       TrainingActions(runtime_, static_cast<int64_t>(microbatches.size()))) {
    absl::Status done;
    switch (action.kind) {
      case PipelineActionKind::kForward:
        done = flow.Forward(action);
        break;
      case PipelineActionKind::kBackward:
        done = flow.Backward(action, objective_, result.counts,
                             losses[static_cast<size_t>(action.microbatch)]);
        break;
      default:
        done = flow.Exchange(action);
    }
    if (!done.ok()) return Annotate(done, absl::StrCat("microbatch ", action.microbatch));
  }

  // 3. Reductions that are still on their way, and the step's losses.
  PLAIT_RETURN_IF_ERROR(sharder.FinishGradients(execution_));
  PLAIT_RETURN_IF_ERROR(ReduceLosses(losses, result));

  // 4. Either all ranks update or none does.
  PLAIT_ASSIGN_OR_RETURN(const GradientNorm norm,
                         GlobalGradientNorm(execution_, *runtime_.mesh, sharder.sharded()));
  result.gradient_norm = norm.norm;
  PLAIT_ASSIGN_OR_RETURN(const FiniteAgreement agreement,
                         AgreeOnFinite(runtime_.mesh->world(), norm, sharder.sharded()));
  if (!agreement.all_finite) {
    result.not_finite = absl::StrCat("gradient of ", agreement.first_parameter);
  } else if (!std::isfinite(result.loss())) {
    result.not_finite = "loss";
  }
  if (!result.not_finite.empty()) return result;

  // 5. Clip and update; the optimizer refreshes the compute weights with the masters, and from
  // here on every rank reads the new ones.
  const double scale = ClipCoefficient(norm.norm, gradient_clip_norm_);
  PLAIT_RETURN_IF_ERROR(optimizer_.Step(execution_, learning_rate, scale));
  PLAIT_RETURN_IF_ERROR(sharder.PublishValues());
  return result;
}

absl::StatusOr<StepCounts> TrainingStep::ReduceCounts(std::span<const Batch> microbatches) {
  Tensor counts = Tensor::OnHost(DType::kF64, {static_cast<int64_t>(microbatches.size()), 2});
  double* next = counts.data<double>();
  // All ranks of a microbatch read it whole: the first one counts it.
  const bool counts_it = runtime_.mesh->is_first_of_microbatch();
  for (const Batch& batch : microbatches) {
    *next++ = counts_it ? batch.weight_sum : 0;
    *next++ = counts_it ? static_cast<double>(batch.real_tokens) : 0;
  }
  PLAIT_ASSIGN_OR_RETURN(const std::vector<double> sums, SumOverLeaves(*runtime_.mesh, counts));
  return StepCounts{.weight_sum = sums[0], .real_tokens = sums[1]};
}

absl::Status TrainingStep::ReduceLosses(std::span<const MicrobatchLosses> losses,
                                        StepResult& result) {
  Tensor values = Tensor::OnHost(DType::kF64, {static_cast<int64_t>(losses.size()), 4});
  double* next = values.data<double>();
  for (const MicrobatchLosses& leaf : losses) {
    *next++ = leaf.language_model;
    *next++ = leaf.balance;
    *next++ = leaf.z;
    *next++ = leaf.activation;
    result.watch.Merge(leaf.watch);
  }
  PLAIT_ASSIGN_OR_RETURN(const std::vector<double> sums, SumOverLeaves(*runtime_.mesh, values));
  result.language_model_loss = sums[0];
  result.balance_loss = sums[1];
  result.z_loss = sums[2];
  result.activation_loss = sums[3];
  return ReduceWatch(runtime_.mesh->world(), result.watch);
}

}  // namespace plait
