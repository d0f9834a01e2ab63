#include "trainer/microbatch_flow.h"

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "base/check.h"
#include "base/status_macros.h"

namespace plait {
namespace {

// AuxiliarySums as one array: its four sums, then choices and probability.
constexpr int64_t kSums = 4;

Tensor Packed(const AuxiliarySums& sums) {
  std::vector<double> values = {sums.output_square_sum, sums.residual_square_sum,
                                sums.expert_square_sum, sums.z};
  values.insert(values.end(), sums.choices.begin(), sums.choices.end());
  values.insert(values.end(), sums.probability.begin(), sums.probability.end());
  return Tensor::FromValues<double>({static_cast<int64_t>(values.size())}, values);
}

AuxiliarySums Unpacked(const Tensor& packed, int64_t experts) {
  const auto values = packed.values<double>();
  const auto choices = values.subspan(kSums, static_cast<size_t>(experts));
  const auto probability = values.subspan(static_cast<size_t>(kSums + experts));
  return {.output_square_sum = values[0],
          .residual_square_sum = values[1],
          .expert_square_sum = values[2],
          .z = values[3],
          .choices = {choices.begin(), choices.end()},
          .probability = {probability.begin(), probability.end()}};
}

int64_t StagesOf(const ModelRuntime& runtime) { return runtime.mesh->size(MeshAxis::kPipeline); }

// The stage `offset` stages on, in the ring that chunks make of them.
int64_t Neighbour(const ModelRuntime& runtime, int64_t offset) {
  const int64_t stages = StagesOf(runtime);
  return (runtime.mesh->coordinate(MeshAxis::kPipeline) + offset + stages) % stages;
}

PipelineActions Own(const ModelRuntime& runtime, std::vector<PipelineActions> lists) {
  return std::move(lists[static_cast<size_t>(runtime.mesh->coordinate(MeshAxis::kPipeline))]);
}

template <class Map>
typename Map::mapped_type Taken(Map& map, const typename Map::key_type& key) {
  const auto found = map.find(key);
  PLAIT_CHECK(found != map.end());
  typename Map::mapped_type value = std::move(found->second);
  map.erase(found);
  return value;
}

}  // namespace

PipelineActions TrainingActions(const ModelRuntime& runtime, int64_t microbatches) {
  const int64_t chunks = runtime.model->num_chunks();
  return Own(runtime, chunks == 1 ? OneForwardOneBackward(StagesOf(runtime), microbatches)
                                  : InterleavedOneForwardOneBackward(StagesOf(runtime), chunks,
                                                                     microbatches));
}

PipelineActions EvaluationActions(const ModelRuntime& runtime, int64_t microbatches) {
  return Own(runtime, ForwardOnly(StagesOf(runtime), runtime.model->num_chunks(), microbatches));
}

absl::StatusOr<const Microbatch*> MicrobatchFlow::microbatch(int64_t index) {
  if (const auto found = microbatches_.find(index); found != microbatches_.end()) {
    return &found->second;
  }
  PLAIT_ASSIGN_OR_RETURN(Microbatch microbatch, read_(index));
  PLAIT_RETURN_IF_ERROR(microbatch.layout.MoveTo(execution_));
  return &microbatches_.emplace(index, std::move(microbatch)).first->second;
}

absl::StatusOr<PartActivations> MicrobatchFlow::ForwardPart(const PipelineAction& action,
                                                            LanguageModel::Saved* saved) {
  LanguageModel& model = *runtime_.model;
  const auto chunk = static_cast<int>(action.chunk);
  PLAIT_ASSIGN_OR_RETURN(const Microbatch* microbatch, this->microbatch(action.microbatch));
  PartActivations input = model.Beginning();
  if (!model.is_first(chunk)) input = Taken(activations_, KeyOf(action));
  return model.ForwardPart(execution_, *runtime_.sharder, chunk, microbatch->tokens,
                           microbatch->layout, std::move(input), /*caches=*/nullptr, saved);
}

absl::Status MicrobatchFlow::Forward(const PipelineAction& action) {
  Kept& kept = kept_[KeyOf(action)];
  PLAIT_ASSIGN_OR_RETURN(PartActivations output, ForwardPart(action, &kept.saved));
  if (runtime_.model->is_last(static_cast<int>(action.chunk))) {
    kept.hidden = std::move(output.hidden);
  } else {
    activations_[KeyOf(action)] = std::move(output);
  }
  return absl::OkStatus();
}

absl::StatusOr<Tensor> MicrobatchFlow::Evaluate(const PipelineAction& action) {
  LanguageModel& model = *runtime_.model;
  PLAIT_ASSIGN_OR_RETURN(PartActivations output, ForwardPart(action, /*saved=*/nullptr));
  if (!model.is_last(static_cast<int>(action.chunk))) {
    activations_[KeyOf(action)] = std::move(output);
    return Tensor();
  }
  return model.HeadLogProbabilities(execution_, *runtime_.sharder, output.hidden,
                                    microbatches_.at(action.microbatch));
}

absl::Status MicrobatchFlow::Backward(const PipelineAction& action, const Objective& objective,
                                      const StepCounts& counts, MicrobatchLosses& losses) {
  LanguageModel& model = *runtime_.model;
  ParameterSharder& sharder = *runtime_.sharder;
  const auto chunk = static_cast<int>(action.chunk);
  const Microbatch& microbatch = microbatches_.at(action.microbatch);
  Kept& kept = kept_.at(KeyOf(action));
  PartGradient& gradient = kept.gradient;
  HostCopy log_probability;
  if (model.is_last(chunk)) {
    PLAIT_RETURN_IF_ERROR(model.PrepareHead(execution_, sharder));
    PLAIT_ASSIGN_OR_RETURN(
        LanguageModel::HeadLoss head,
        objective.LossAndGradient(execution_, model, kept.hidden, microbatch, counts));
    kept.hidden = Tensor();
    gradient.stream = std::move(head.dhidden);
    log_probability = std::move(head.log_probability);
    // While the device is at the head, the host waits for what came before.
    PLAIT_RETURN_IF_ERROR(model.FinishObservation(microbatch.layout, kept.saved));
    PLAIT_ASSIGN_OR_RETURN(gradient.choices, model.MicrobatchChoices(kept.saved.sums));
  }
  PLAIT_ASSIGN_OR_RETURN(const AuxiliaryLosses auxiliary,
                         ComputeAuxiliaryLosses(execution_, model.shape(), microbatch.layout,
                                                kept.saved.sums, gradient.choices, counts));
  if (model.is_last(chunk)) {
    losses.balance = auxiliary.balance;
    losses.z = auxiliary.z;
    losses.activation = auxiliary.activation;
  }
  losses.watch.Merge(kept.saved.watch);
  PLAIT_ASSIGN_OR_RETURN(gradient.stream,
                         model.BackwardPart(execution_, sharder, chunk, microbatch, auxiliary,
                                            std::move(gradient.stream), kept.saved));
  if (model.is_last(chunk)) {
    PLAIT_ASSIGN_OR_RETURN(const Tensor numbers, log_probability.Wait());
    losses.language_model = objective.Loss(model, microbatch, numbers, counts);
  }
  kept.saved = {};
  if (model.is_first(chunk)) kept_.erase(KeyOf(action));
  if (chunk == 0) Drop(action.microbatch);
  return absl::OkStatus();
}

absl::Status MicrobatchFlow::Exchange(const PipelineAction& action) {
  switch (action.kind) {
    case PipelineActionKind::kSendActivations:
      return SendActivations(action);
    case PipelineActionKind::kReceiveActivations:
      return ReceiveActivations(action);
    case PipelineActionKind::kSendGradients:
      return SendGradients(action);
    case PipelineActionKind::kReceiveGradients:
      return ReceiveGradients(action);
    default:
      PLAIT_CHECK(false);  // a pass is no message
  }
}

absl::Status MicrobatchFlow::SendActivations(const PipelineAction& action) {
  const PartActivations sent = Taken(activations_, KeyOf(action));
  return Send({sent.stream.residual, sent.stream.delta, Packed(sent.sums)}, Neighbour(runtime_, 1));
}

absl::Status MicrobatchFlow::ReceiveActivations(const PipelineAction& action) {
  const LanguageModel& model = *runtime_.model;
  PLAIT_ASSIGN_OR_RETURN(const Microbatch* microbatch, this->microbatch(action.microbatch));
  const Shape shape{microbatch->layout.rows, model.shape().model_dim};
  PartActivations& activations = activations_[KeyOf(action)];
  activations.stream = {.residual = execution_.Empty(model.dtype(), shape),
                        .delta = execution_.Empty(model.dtype(), shape)};
  const int64_t experts = model.shape().experts;
  const Tensor sums = Tensor::OnHost(DType::kF64, {kSums + 2 * experts});
  PLAIT_RETURN_IF_ERROR(Receive({activations.stream.residual, activations.stream.delta, sums},
                                Neighbour(runtime_, -1)));
  activations.sums = Unpacked(sums, experts);
  return absl::OkStatus();
}

absl::Status MicrobatchFlow::SendGradients(const PipelineAction& action) {
  const PartGradient sent = Taken(kept_, KeyOf(action)).gradient;
  return Send({sent.stream, Tensor::FromValues<double>({static_cast<int64_t>(sent.choices.size())},
                                                       sent.choices)},
              Neighbour(runtime_, -1));
}

absl::Status MicrobatchFlow::ReceiveGradients(const PipelineAction& action) {
  const LanguageModel& model = *runtime_.model;
  const Microbatch& microbatch = microbatches_.at(action.microbatch);
  PartGradient& gradient = kept_.at(KeyOf(action)).gradient;
  gradient.stream =
      execution_.Empty(model.dtype(), {microbatch.layout.rows, model.shape().model_dim});
  const Tensor choices = Tensor::OnHost(DType::kF64, {model.shape().experts});
  PLAIT_RETURN_IF_ERROR(Receive({gradient.stream, choices}, Neighbour(runtime_, 1)));
  const auto values = choices.values<double>();
  gradient.choices.assign(values.begin(), values.end());
  return absl::OkStatus();
}

// All of one message set out together; empty tensors need no message.
template <class Pass>
absl::Status MicrobatchFlow::PassAll(std::initializer_list<Tensor> tensors, const Pass& pass) {
  Stream host;
  Event on_device;  // the stream's last: those before are done with it
  std::vector<Event> on_host;
  for (Tensor tensor : tensors) {  // shares its memory
    if (tensor.num_elements() == 0) continue;
    if (tensor.on_device()) {
      PLAIT_ASSIGN_OR_RETURN(on_device, pass(execution_.communication_after_compute(), tensor));
    } else {
      PLAIT_ASSIGN_OR_RETURN(on_host.emplace_back(), pass(host, tensor));
    }
  }
  for (const Event& event : on_host) PLAIT_RETURN_IF_ERROR(event.Synchronize());
  return execution_.compute().Wait(on_device);
}

absl::Status MicrobatchFlow::Send(std::initializer_list<Tensor> tensors, int64_t stage) {
  Communicator& stages = runtime_.mesh->axis(MeshAxis::kPipeline);
  return PassAll(tensors, [&](Stream& stream, const Tensor& tensor) {
    return stages.Send(stream, tensor.vector(), static_cast<int>(stage));
  });
}

absl::Status MicrobatchFlow::Receive(std::initializer_list<Tensor> tensors, int64_t stage) {
  Communicator& stages = runtime_.mesh->axis(MeshAxis::kPipeline);
  return PassAll(tensors, [&](Stream& stream, Tensor& tensor) {
    return stages.Receive(stream, tensor.vector(), static_cast<int>(stage));
  });
}

}  // namespace plait
