// MicrobatchFlow: the microbatches of a step or an evaluation on their way through this stage's
// parts of the model: what is kept of those in flight, and the messages to and from the
// neighbouring stages. Which comes next is the caller's: one of the lists of
// parallel/pipeline_schedule.h, whose order lets a send wait for its receive.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "model/language_model.h"
#include "parallel/pipeline_schedule.h"
#include "trainer/model_runtime.h"
#include "trainer/objective.h"

namespace plait {

// What this stage does in a step of as many microbatches: one forward, one backward, interleaved
// where stages have several chunks.
PipelineActions TrainingActions(const ModelRuntime& runtime, int64_t microbatches);
// Forward passes alone.
PipelineActions EvaluationActions(const ModelRuntime& runtime, int64_t microbatches);

class MicrobatchFlow {
 public:
  // What this rank works on of microbatch `index`. Called once for each, on every stage.
  using Read = std::function<absl::StatusOr<Microbatch>(int64_t index)>;

  // execution and runtime outlive the flow.
  MicrobatchFlow(Execution& execution, ModelRuntime& runtime, Read read)
      : execution_(execution), runtime_(runtime), read_(std::move(read)) {}

  // One send or receive; this rank, or its device, waits for the neighbour.
  absl::Status Exchange(const PipelineAction& action);
  absl::Status Forward(const PipelineAction& action);
  // losses: of the action's microbatch; gets what this part knows of them. Adds to the gradients.
  absl::Status Backward(const PipelineAction& action, const Objective& objective,
                        const StepCounts& counts, MicrobatchLosses& losses);

  // A forward pass that no backward follows: keeps nothing. In the last part returns log p of the
  // targets (LanguageModel::HeadLogProbabilities), elsewhere an absent tensor.
  absl::StatusOr<Tensor> Evaluate(const PipelineAction& action);

  // Read where it has not been; kept until dropped, which a backward pass of the first chunk does.
  absl::StatusOr<const Microbatch*> microbatch(int64_t index);
  void Drop(int64_t index) { microbatches_.erase(index); }

 private:
  // Of a microbatch between the forward and the backward pass of one of this stage's parts.
  struct Kept {
    Tensor hidden;  // of the last part
    LanguageModel::Saved saved;
    PartGradient gradient;  // of what the part made, after its backward pass of what it read
  };
  using Key = std::pair<int64_t, int64_t>;  // chunk and microbatch

  static Key KeyOf(const PipelineAction& action) { return {action.chunk, action.microbatch}; }
  absl::StatusOr<PartActivations> ForwardPart(const PipelineAction& action,
                                              LanguageModel::Saved* saved);
  absl::Status SendActivations(const PipelineAction& action);
  absl::Status ReceiveActivations(const PipelineAction& action);
  absl::Status SendGradients(const PipelineAction& action);
  absl::Status ReceiveGradients(const PipelineAction& action);
  // pass(stream, tensor) of each.
  template <class Pass>
  absl::Status PassAll(std::initializer_list<Tensor> tensors, const Pass& pass);
  absl::Status Send(std::initializer_list<Tensor> tensors, int64_t stage);
  absl::Status Receive(std::initializer_list<Tensor> tensors, int64_t stage);

  Execution& execution_;
  ModelRuntime& runtime_;
  Read read_;
  std::map<int64_t, Microbatch> microbatches_;
  std::map<Key, PartActivations> activations_;  // that a part has received, or is to send
  std::map<Key, Kept> kept_;
};

}  // namespace plait
