// Trainer: the order of things in a run. Stages of the recipe one after the other; at every step
// boundary: log, evaluate, save, stop, as asked. A run lives in a folder:
//   RUN/recipe.textproto   the resolved recipe
//   RUN/metrics.jsonl      metrics.h
//   RUN/tensorboard/       tensorboard_writer.h
//   RUN/checkpoints/       step-00001000/ ...
// A run that was stopped (or killed) at any step and resumed ends with the same bits as one that
// was not. A run may start from the weights of another's checkpoint or of a converted one
// (trainer.initial_checkpoint); what that carries beside the weights, its checkpoints carry on.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "parallel/parameter_sharder.h"

namespace plait {

namespace recipe::v1 {
class Recipe;
}

struct TrainerOptions {
  std::string output;  // the run's folder
  // Go on from the newest checkpoint that verifies; start anew where there is none.
  bool resume = false;
  // Asked at step boundaries and while the run evaluates: whether to stop with a checkpoint. May be
  // absent, and true on some ranks alone.
  std::function<bool()> stop_requested;
  // All ranks of the run; absent: one.
  std::shared_ptr<Communicator> world;
};

enum class StopReason {
  kFinished,   // every stage is done
  kStopAfter,  // debug.stop_after_steps
  kRequested,  // stop_requested: try again with --resume
};

struct RunResult {
  StopReason reason = StopReason::kFinished;
  int64_t step = 0;            // steps of the run that are done
  std::string checkpoint;      // folder of the last one
  std::optional<double> loss;  // of the last step of this process; absent where it made none
};

class Trainer {
 public:
  // Collective; failures are agreed on by all ranks (parallel/status_agreement.h).
  // recipe: resolved and valid. Opens the data, builds the model, and initialises it or loads the
  // checkpoint. FailedPrecondition where the folder holds a run and resume is off, where data or
  // tokenizer are not those of the checkpoint (of an initial one: the tokenizer), or where the
  // checkpoint is past the recipe's last step; DataLoss for damaged data (prepared_manifest.h);
  // errors of exit code 3 for checkpoints.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(const recipe::v1::Recipe& recipe,
                                                         const TrainerOptions& options);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // Trains to the end or until stopped. Errors carry exit code 17 where numbers were not finite.
  absl::StatusOr<RunResult> Run();

  // For tests and reports: the parameters as they are.
  ParameterSharder& sharder();

 private:
  struct State;
  explicit Trainer(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace plait
