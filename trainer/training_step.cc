#include "trainer/training_step.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "optim/finite_agreement.h"
#include "optim/gradient_clipping.h"

namespace plait {
namespace {

// Sums over the ranks that see different data, in place.
absl::Status AllReduceSum(Execution& execution, const DeviceMesh& mesh, Tensor& values) {
  PLAIT_ASSIGN_OR_RETURN(const Event reduced,
                         mesh.data_parallel().AllReduce(execution.communication(), values.vector(),
                                                        ReduceOperation::kSum));
  reduced.Synchronize();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StepResult> TrainingStep::Run(std::span<const Batch> microbatches,
                                             double learning_rate) {
  LanguageModel& model = *runtime_.model;
  ParameterSharder& sharder = *runtime_.sharder;
  StepResult result;

  // 1. What every loss is divided by, known before the first forward pass.
  PLAIT_ASSIGN_OR_RETURN(result.counts, ReduceCounts(microbatches));

  // 2. Forward and backward of every microbatch; gradients add up.
  sharder.ZeroGradients();
  for (size_t j = 0; j < microbatches.size(); ++j) {
    const Batch& batch = microbatches[j];
    PLAIT_ASSIGN_OR_RETURN(const Microbatch microbatch,
                           Microbatch::Create(batch.tokens, batch.targets, batch.token_weight,
                                              batch.document_offsets, model.dtype()));
    absl::StatusOr<MicrobatchLosses> losses =
        objective_.LossAndGradient(execution_, model, sharder, microbatch, result.counts);
    if (!losses.ok()) return Annotate(losses.status(), absl::StrCat("microbatch ", j));
    result.language_model_loss += losses->language_model;
    result.balance_loss += losses->balance;
    result.z_loss += losses->z;
    result.activation_loss += losses->activation;
    result.watch.Merge(losses->watch);
  }

  // 3. Reductions that are still on their way, and the step's losses.
  PLAIT_RETURN_IF_ERROR(sharder.FinishGradients(execution_));
  PLAIT_RETURN_IF_ERROR(ReduceLosses(result));

  // 4. Either all ranks update or none does.
  PLAIT_ASSIGN_OR_RETURN(const GradientNorm norm,
                         GlobalGradientNorm(execution_, *runtime_.mesh, sharder.sharded()));
  result.gradient_norm = norm.norm;
  PLAIT_ASSIGN_OR_RETURN(
      const FiniteAgreement agreement,
      AgreeOnFinite(execution_, runtime_.mesh->world(), norm, sharder.sharded()));
  if (!agreement.all_finite) {
    result.not_finite = absl::StrCat("gradient of ", agreement.first_parameter);
  } else if (!std::isfinite(result.loss())) {
    result.not_finite = "loss";
  }
  if (!result.not_finite.empty()) return result;

  // 5. Clip and update; the optimizer refreshes the compute weights with the masters.
  const double scale = ClipCoefficient(norm.norm, gradient_clip_norm_);
  PLAIT_RETURN_IF_ERROR(optimizer_.Step(execution_, learning_rate, scale));
  return result;
}

absl::StatusOr<StepCounts> TrainingStep::ReduceCounts(std::span<const Batch> microbatches) {
  Tensor counts = Tensor::OnHost(DType::kF64, {2});
  for (const Batch& batch : microbatches) {
    counts.data<double>()[0] += batch.weight_sum;
    counts.data<double>()[1] += static_cast<double>(batch.real_tokens);
  }
  PLAIT_RETURN_IF_ERROR(AllReduceSum(execution_, *runtime_.mesh, counts));
  return StepCounts{.weight_sum = counts.data<double>()[0],
                    .real_tokens = counts.data<double>()[1]};
}

absl::Status TrainingStep::ReduceLosses(StepResult& result) {
  Tensor losses = Tensor::FromValues<double>({4}, {result.language_model_loss, result.balance_loss,
                                                   result.z_loss, result.activation_loss});
  PLAIT_RETURN_IF_ERROR(AllReduceSum(execution_, *runtime_.mesh, losses));
  result.language_model_loss = losses.data<double>()[0];
  result.balance_loss = losses.data<double>()[1];
  result.z_loss = losses.data<double>()[2];
  result.activation_loss = losses.data<double>()[3];
  return absl::OkStatus();
}

}  // namespace plait
