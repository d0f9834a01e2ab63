#include "trainer/device_benchmark.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "optim/learning_rate_schedule.h"
#include "recipes/schema/recipe.pb.h"
#include "trainer/device_memory.h"
#include "trainer/fresh_model.h"
#include "trainer/random_batches.h"

namespace plait {
namespace {

using recipe::v1::Recipe;
using recipe::v1::Stage;
using recipe::v1::Trainer;

constexpr double kDeviations = 5;

absl::StatusOr<DeviceBenchmarkResult::Run> Train(Execution& execution, Recipe recipe,
                                                 Trainer::Precision precision,
                                                 const DeviceBenchmarkOptions& options) {
  recipe.mutable_trainer()->set_precision(precision);
  PLAIT_RETURN_IF_ERROR(ReserveDeviceMemory(execution, recipe, /*ranks=*/1));
  PLAIT_ASSIGN_OR_RETURN(const auto fresh, FreshModel::Create(execution, recipe));
  const std::vector<Batch> batches = RandomStep(recipe, options.stage);
  const Stage& stage = recipe.stages(options.stage);
  const LearningRateSchedule schedule(stage.schedule(), stage.steps());
  DeviceBenchmarkResult::Run run;
  std::vector<double> seconds;
  for (int64_t s = 0; s < options.steps; ++s) {
    const auto start = std::chrono::steady_clock::now();
    PLAIT_ASSIGN_OR_RETURN(
        const StepResult step,
        fresh->step->Run(batches, schedule.At(std::min<int64_t>(s, stage.steps() - 1))));
    PLAIT_RETURN_IF_ERROR(execution.compute().Synchronize());
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    run.losses.push_back(step.not_finite.empty() ? step.loss()
                                                 : std::numeric_limits<double>::quiet_NaN());
  }
  std::sort(seconds.begin(), seconds.end());
  run.median_seconds = seconds[seconds.size() / 2];
  return run;
}

absl::StatusOr<ExecutionOptions> OptionsOn(Recipe recipe, Trainer::Device device) {
  recipe.mutable_trainer()->set_device(device);
  return ExecutionOptionsFor(recipe);
}

}  // namespace

DeviceBenchmarkResult DeviceBenchmarkResult::Compare(Run cpu_f32, Run cpu, Run device) {
  DeviceBenchmarkResult result;
  double squares = 0;
  for (size_t s = 0; s < cpu.losses.size(); ++s) {
    squares += std::pow(cpu.losses[s] - cpu_f32.losses[s], 2);
    const double difference = std::abs(device.losses[s] - cpu.losses[s]);
    // NaN is the largest.
    if (difference <= result.largest_difference) continue;
    result.largest_difference = difference;
    result.largest_at = static_cast<int64_t>(s);
    if (std::isnan(difference)) break;
  }
  result.bound = kDeviations * std::sqrt(2 * squares / static_cast<double>(cpu.losses.size()));
  result.cpu_f32 = std::move(cpu_f32);
  result.cpu = std::move(cpu);
  result.on_device = std::move(device);
  return result;
}

bool DeviceBenchmarkResult::Agrees() const { return largest_difference <= bound; }

absl::StatusOr<DeviceBenchmarkResult> BenchmarkDevices(const Recipe& recipe,
                                                       const DeviceBenchmarkOptions& options) {
  if (options.stage < 0 || options.stage >= recipe.stages_size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "stage ", options.stage, ": the recipe has stages 0 to ", recipe.stages_size() - 1));
  }
  PLAIT_ASSIGN_OR_RETURN(const ExecutionOptions on_device, OptionsOn(recipe, Trainer::CUDA));
  PLAIT_ASSIGN_OR_RETURN(const ExecutionOptions on_cpu, OptionsOn(recipe, Trainer::CPU));
  Execution device(on_device), cpu(on_cpu);
  PLAIT_ASSIGN_OR_RETURN(DeviceBenchmarkResult::Run gpu_run,
                         Train(device, recipe, Trainer::BF16, options));
  PLAIT_ASSIGN_OR_RETURN(DeviceBenchmarkResult::Run cpu_run,
                         Train(cpu, recipe, Trainer::BF16, options));
  PLAIT_ASSIGN_OR_RETURN(DeviceBenchmarkResult::Run f32_run,
                         Train(cpu, recipe, Trainer::F32, options));
  auto result =
      DeviceBenchmarkResult::Compare(std::move(f32_run), std::move(cpu_run), std::move(gpu_run));
  result.device = device.runtime()->DeviceName();
  result.threads = cpu.num_threads();
  result.tokens_per_step = recipe.stages(options.stage).tokens_per_step();
  return result;
}

}  // namespace plait
