// plait train
#include <signal.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/exit_code.h"
#include "base/json_text.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "parallel/collective_watchdog.h"
#include "parallel/status_agreement.h"
#include "recipes/recipe_loader.h"
#include "tools/plait.h"
#include "tools/ranks.h"
#include "trainer/trainer.h"

namespace plait {
namespace {

struct Options {
  std::string recipe;
  std::vector<std::string> overrides;
  TrainerOptions trainer;
  bool json = false;
};

// A signal handler reaches nothing but a global.
std::atomic<bool> stop_requested{false};

// The first SIGTERM, SIGINT or SIGUSR1 asks for a checkpoint at the next step; a second one ends
// the process at once, which loses no checkpoint either.
void StopOnSignals() {
  struct sigaction action {};
  action.sa_handler = [](int) { stop_requested = true; };
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) ::sigaction(signal, &action, nullptr);
  // A terminal that is gone, unless nohup has it ignored.
  struct sigaction hangup {};
  ::sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler != SIG_IGN) ::sigaction(SIGHUP, &action, nullptr);
}

const char* Name(StopReason reason) {
  switch (reason) {
    case StopReason::kFinished:
      return "finished";
    case StopReason::kStopAfter:
      return "stopped by debug.stop_after_steps";
    case StopReason::kRequested:
      return "stopped on request";
  }
  return "?";
}

absl::Status TrainOnRank(const Options& options, const std::shared_ptr<Communicator>& world) {
  absl::StatusOr<recipe::v1::Recipe> recipe =
      LoadValidRecipe(options.recipe, options.overrides, world->size());
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(*world, recipe.status()));
  std::optional<CollectiveWatchdog> watchdog;
  if (world->size() > 1) {
    watchdog.emplace(world->ledger(), recipe->trainer().collective_timeout_seconds());
  }
  TrainerOptions trainer_options = options.trainer;
  trainer_options.stop_requested = [] { return stop_requested.load(); };
  trainer_options.world = world;
  PLAIT_ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                         Trainer::Create(*recipe, trainer_options));
  PLAIT_ASSIGN_OR_RETURN(const RunResult result, trainer->Run());
  if (world->rank() == 0 && options.json) {
    nlohmann::ordered_json answer = {{"reason", Name(result.reason)},
                                     {"step", result.step},
                                     {"loss", nullptr},
                                     {"checkpoint", result.checkpoint}};
    if (result.loss) answer["loss"] = *result.loss;
    std::printf("%s\n", JsonText(answer).c_str());
  } else if (world->rank() == 0) {
    std::printf("%s at step %" PRId64 "; checkpoint %s\n", Name(result.reason), result.step,
                result.checkpoint.c_str());
  }
  if (result.reason != StopReason::kRequested) return absl::OkStatus();
  return AgreeOnStatus(*world,
                       absl::AbortedError(absl::StrCat("stopped on request at step ", result.step,
                                                       "; go on with --resume")));
}

absl::Status Run(const Options& options) {
  if (options.trainer.output.empty())
    return absl::InvalidArgumentError("--output: is empty; name the folder of the run");
  const LogToRun log_to_run(options.trainer.output);
  // Before the ranks meet: a launcher may pass a signal on at any time.
  StopOnSignals();
  return RunOnRanks([&options](const std::shared_ptr<Communicator>& world) {
    return TrainOnRank(options, world);
  });
}

}  // namespace

void AddTrainCommand(CLI::App& plait, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = plait.add_subcommand("train", "Trains a recipe's model");
  command->add_option("recipe", options->recipe, "Recipe file (*.textproto)")->required();
  command->add_option("--output", options->trainer.output, "Folder of the run")->required();
  command->add_option("--set", options->overrides, "Changes one field: path=value; repeatable")
      ->expected(1)
      ->take_all();
  command->add_flag("--resume", options->trainer.resume,
                    "Goes on from the run's newest checkpoint that verifies");
  command->add_flag("--json", options->json, "Ends with one JSON object on stdout");
  command->footer(
      "Example: plait train recipes/library/demo_pretrain.textproto --output runs/first --set "
      "data.path=data\nOn several ranks: tools/launch/mpirun.sh -n 2 plait train ...; Slurm: "
      "tools/launch/slurm.sh.\nSIGTERM, SIGINT or SIGUSR1 stops it with a checkpoint at the next "
      "step, exit code 75; a second one ends it at once.");
  command->callback([options, &action] { action = [options] { return Run(*options); }; });
}

}  // namespace plait
