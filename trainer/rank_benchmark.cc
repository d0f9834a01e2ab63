#include "trainer/rank_benchmark.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "data/batch.h"
#include "optim/adamw.h"
#include "parallel/host_collectives.h"
#include "parallel/host_share.h"
#include "recipes/schema/recipe.pb.h"
#include "trainer/fresh_model.h"
#include "trainer/model_runtime.h"
#include "trainer/pretraining_objective.h"
#include "trainer/random_batches.h"
#include "trainer/training_step.h"

namespace plait {
namespace {

using recipe::v1::Parallel;
using recipe::v1::Recipe;

constexpr double kLearningRate = 1e-4;

// A model of its own for every way, so that they can take turns.
struct Contender {
  std::string name;
  std::shared_ptr<Communicator> ranks;
  std::unique_ptr<Execution> execution;
  ModelRuntime runtime;
  std::unique_ptr<AdamW> optimizer;
  PretrainingObjective objective;
  std::unique_ptr<TrainingStep> step;
  double waited = 0;
  double seconds = 0;
};

// The parameters from the first on that make about one of `parts` of all.
std::span<ShardedParameter> FirstPart(std::span<ShardedParameter> parameters, int parts) {
  int64_t all = 0;
  for (const ShardedParameter& parameter : parameters) all += parameter.master.num_elements();
  int64_t taken = 0;
  size_t count = 0;
  while (count < parameters.size() && taken < all / parts) {
    taken += parameters[count++].master.num_elements();
  }
  return parameters.first(count);
}

absl::StatusOr<std::unique_ptr<Contender>> Make(const Recipe& recipe, const std::string& name,
                                                const std::shared_ptr<Communicator>& ranks,
                                                const ExecutionOptions& options,
                                                int optimizer_parts) {
  auto contender = std::make_unique<Contender>();
  contender->name = name;
  contender->ranks = ranks;
  contender->execution = std::make_unique<Execution>(options);
  Execution& execution = *contender->execution;
  PLAIT_ASSIGN_OR_RETURN(contender->runtime, ModelRuntime::Create(execution, recipe, ranks));
  ModelRuntime& runtime = contender->runtime;
  PLAIT_RETURN_IF_ERROR(runtime.model->Initialize(*runtime.sharder, recipe.seed()));
  PLAIT_ASSIGN_OR_RETURN(contender->optimizer,
                         AdamW::Create(execution, recipe.optim().adamw(),
                                       FirstPart(runtime.sharder->sharded(), optimizer_parts)));
  contender->step =
      std::make_unique<TrainingStep>(execution, runtime, *contender->optimizer,
                                     contender->objective, recipe.optim().gradient_clip_norm());
  return contender;
}

// One number over all ranks.
absl::StatusOr<double> Reduce(Communicator& world, double value, ReduceOperation operation) {
  PLAIT_RETURN_IF_ERROR(AllReduceOnHost(world, {&value, DType::kF64, 1}, operation));
  return value;
}

absl::StatusOr<std::vector<std::unique_ptr<Contender>>> MakeAll(
    const Recipe& recipe, const std::shared_ptr<Communicator>& world,
    const ExecutionOptions& options) {
  std::vector<std::unique_ptr<Contender>> all;
  Recipe alone = recipe;
  Parallel& one_rank = *alone.mutable_parallel();
  one_rank.clear_shard();
  one_rank.set_replicate(1);
  one_rank.set_context(1);
  one_rank.set_tensor(1);
  one_rank.set_pipeline(1);
  one_rank.set_pipeline_chunks(1);
  one_rank.set_expert(1);
  Recipe messages = recipe;
  messages.mutable_parallel()->set_transport(Parallel::MESSAGES);
  Recipe canonical = recipe;
  canonical.mutable_parallel()->set_reduction(Parallel::CANONICAL);
  PLAIT_ASSIGN_OR_RETURN(all.emplace_back(), Make(alone, "alone", MakeSingleRankCommunicator(),
                                                  options, world->size()));
  PLAIT_ASSIGN_OR_RETURN(all.emplace_back(), Make(recipe, "shared", world, options, 1));
  if (!all.back()->runtime.sharder->has_windows()) all.pop_back();
  PLAIT_ASSIGN_OR_RETURN(all.emplace_back(), Make(messages, "messages", world, options, 1));
  // Not built with an expert axis.
  if (recipe.parallel().expert() <= 1) {
    PLAIT_ASSIGN_OR_RETURN(all.emplace_back(), Make(canonical, "canonical", world, options, 1));
  }
  return all;
}

}  // namespace

absl::Status CheckRankBenchmark(const Recipe& recipe, int ranks,
                                const RankBenchmarkOptions& options) {
  if (ranks == 1) {
    return absl::InvalidArgumentError(
        "bench ranks: needs at least two; start it with tools/launch/mpirun.sh -n 2");
  }
  if (options.stage < 0 || options.stage >= recipe.stages_size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "stage ", options.stage, ": the recipe has stages 0 to ", recipe.stages_size() - 1));
  }
  return absl::OkStatus();
}

absl::StatusOr<RankBenchmarkResult> BenchmarkRanks(const Recipe& recipe,
                                                   const std::shared_ptr<Communicator>& world,
                                                   const RankBenchmarkOptions& options) {
  PLAIT_ASSIGN_OR_RETURN(const HostShare host, ShareOfHost(*world));
  PLAIT_ASSIGN_OR_RETURN(const ExecutionOptions execution_options,
                         ExecutionOptionsFor(recipe, host.fair_threads, host.rank_on_host));
  PLAIT_ASSIGN_OR_RETURN(const auto contenders, MakeAll(recipe, world, execution_options));
  const std::vector<Batch> leaves = RandomStep(recipe, options.stage);
  const std::vector<Batch> own = OwnLeaves(*contenders.back()->runtime.mesh, leaves);

  RankBenchmarkResult result{.ranks = world->size(),
                             .threads = contenders[0]->execution->num_threads()};
  for (const auto& contender : contenders) result.ways.push_back({.name = contender->name});
  for (int64_t round = 0; round < options.warmup_rounds + options.rounds; ++round) {
    for (size_t i = 0; i < contenders.size(); ++i) {
      Contender& contender = *contenders[i];
      CollectiveLedger& ledger = contender.ranks->ledger();
      PLAIT_RETURN_IF_ERROR(world->Barrier());
      const int64_t waited = ledger.waited_nanoseconds(), bytes = ledger.bytes_moved();
      const auto start = std::chrono::steady_clock::now();
      PLAIT_RETURN_IF_ERROR(contender.step->Run(own, kLearningRate).status());
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      result.ways[i].bytes_moved = ledger.bytes_moved() - bytes;
      const double wait = 1e-9 * static_cast<double>(ledger.waited_nanoseconds() - waited);
      PLAIT_ASSIGN_OR_RETURN(const double slowest, Reduce(*world, seconds, ReduceOperation::kMax));
      if (round < options.warmup_rounds) continue;
      contender.waited += wait;
      contender.seconds += seconds;
      result.ways[i].step_seconds.push_back(slowest);
    }
  }
  for (size_t i = 0; i < contenders.size(); ++i) {
    RankBenchmarkResult::Way& way = result.ways[i];
    std::vector<double> sorted = way.step_seconds;
    std::sort(sorted.begin(), sorted.end());
    way.median_seconds = sorted[sorted.size() / 2];
    PLAIT_ASSIGN_OR_RETURN(
        const double share,
        Reduce(*world, contenders[i]->waited / contenders[i]->seconds, ReduceOperation::kSum));
    way.waiting_share = share / world->size();
  }
  return result;
}

}  // namespace plait
