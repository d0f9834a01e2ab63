// plait bench: step, ranks and devices, of whole training steps; the other benchmarks are in files
// of their own.
#include <CLI/CLI.hpp>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "parallel/status_agreement.h"
#include "recipes/recipe_loader.h"
#include "tools/option_checks.h"
#include "tools/plait.h"
#include "tools/ranks.h"
#include "trainer/device_benchmark.h"
#include "trainer/rank_benchmark.h"
#include "trainer/step_benchmark.h"

namespace plait {
namespace {

struct StepOptions {
  std::string recipe;
  std::vector<std::string> overrides;
  StepBenchmarkOptions benchmark;
  bool json = false;
};

absl::Status RunStep(const StepOptions& options) {
  PLAIT_ASSIGN_OR_RETURN(const recipe::v1::Recipe recipe,
                         LoadValidRecipe(options.recipe, options.overrides, /*world_size=*/1));
  PLAIT_ASSIGN_OR_RETURN(const StepBenchmarkResult result,
                         BenchmarkSteps(recipe, options.benchmark));
  if (options.json) {
    const nlohmann::ordered_json answer = {
        {"benchmark", "step"},
        {"stage", result.stage},
        {"device", result.device},
        {"threads", result.threads},
        {"tokens_per_step", result.tokens_per_step},
        {"step_seconds", result.step_seconds},
        {"median_seconds", result.median_seconds},
        {"tokens_per_second", result.tokens_per_second},
        {"model_flops_per_second", result.model_flops_per_second},
        {"gemm_peak_flops_per_second", result.gemm_peak_flops_per_second},
        {"share_of_gemm_peak", result.share_of_gemm_peak},
        {"peak_flops_per_second", result.peak_flops_per_second},
        {"share_of_peak", result.share_of_peak},
        {"memory_bytes", result.memory_bytes},
        {"allocated_bytes_peak", result.allocated_bytes_peak},
        {"reserved_bytes_peak", result.reserved_bytes_peak},
        {"pinned_bytes_peak", result.pinned_bytes_peak},
        {"seconds_to_first_step", result.seconds_to_first_step}};
    std::printf("%s\n", JsonText(answer).c_str());
    return absl::OkStatus();
  }
  std::printf("stage %s, %s, %d threads: %.3f s a step of %" PRId64
              " tokens (median of %zu), %.0f tokens/s\n",
              result.stage.c_str(), result.device.c_str(), result.threads, result.median_seconds,
              result.tokens_per_step, result.step_seconds.size(), result.tokens_per_second);
  std::printf("%.2f GFLOP/s of the model, %.1f %% of the GEMM peak of %.2f",
              result.model_flops_per_second / 1e9, 100 * result.share_of_gemm_peak,
              result.gemm_peak_flops_per_second / 1e9);
  if (result.peak_flops_per_second > 0) {
    std::printf(", %.1f %% of the device's %.0f", 100 * result.share_of_peak,
                result.peak_flops_per_second / 1e9);
  }
  std::printf("; tensors %" PRId64 " MB, process %" PRId64
              " MB; first step %.2f s after the process started\n",
              result.allocated_bytes_peak >> 20, result.memory_bytes >> 20,
              result.seconds_to_first_step);
  return absl::OkStatus();
}

struct DeviceOptions {
  std::string recipe;
  std::vector<std::string> overrides;
  DeviceBenchmarkOptions benchmark;
  bool json = false;
};

void PrintDevices(const DeviceBenchmarkResult& result, bool json) {
  const auto steps = static_cast<int64_t>(result.cpu.losses.size());
  const double device_seconds = result.on_device.median_seconds;
  if (json) {
    const nlohmann::ordered_json answer = {{"benchmark", "devices"},
                                           {"device", result.device},
                                           {"threads", result.threads},
                                           {"steps", steps},
                                           {"tokens_per_step", result.tokens_per_step},
                                           {"agrees", result.Agrees()},
                                           {"largest_difference", result.largest_difference},
                                           {"largest_at_step", result.largest_at},
                                           {"bound", result.bound},
                                           {"device_step_seconds", device_seconds},
                                           {"cpu_step_seconds", result.cpu.median_seconds},
                                           {"device_losses", result.on_device.losses},
                                           {"cpu_losses", result.cpu.losses},
                                           {"cpu_f32_losses", result.cpu_f32.losses}};
    std::printf("%s\n", JsonText(answer).c_str());
    return;
  }
  std::printf("%6s %12s %12s %12s\n", "step", "device", "CPU", "CPU at f32");
  for (int64_t s = 0; s < steps; ++s) {
    const auto at = static_cast<size_t>(s);
    std::printf("%6" PRId64 " %12.6f %12.6f %12.6f\n", s, result.on_device.losses[at],
                result.cpu.losses[at], result.cpu_f32.losses[at]);
  }
  std::printf("%s and CPU (%d threads): largest difference %.6f at step %" PRId64
              ", bound %.6f; %.1f and %.1f ms a step of %" PRId64 " tokens\n",
              result.device.c_str(), result.threads, result.largest_difference, result.largest_at,
              result.bound, 1e3 * device_seconds, 1e3 * result.cpu.median_seconds,
              result.tokens_per_step);
}

absl::Status RunDevices(const DeviceOptions& options) {
  PLAIT_ASSIGN_OR_RETURN(const recipe::v1::Recipe recipe,
                         LoadValidRecipe(options.recipe, options.overrides, /*world_size=*/1));
  PLAIT_ASSIGN_OR_RETURN(const DeviceBenchmarkResult result,
                         BenchmarkDevices(recipe, options.benchmark));
  PrintDevices(result, options.json);
  if (result.Agrees()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(
      "bench devices: the loss of step ", result.largest_at, " differs by ",
      result.largest_difference, ", more than ", result.bound,
      ", what bf16 explains; this build must not train such a model on ", result.device));
}

struct RankOptions {
  std::string recipe;
  std::vector<std::string> overrides;
  RankBenchmarkOptions benchmark;
  bool json = false;
};

void PrintRanks(const RankBenchmarkResult& result, bool json) {
  const double alone = result.ways[0].median_seconds;
  nlohmann::ordered_json answer = {{"benchmark", "ranks"},
                                   {"ranks", result.ranks},
                                   {"threads_per_rank", result.threads},
                                   {"ways", nlohmann::ordered_json::array()}};
  for (const RankBenchmarkResult::Way& way : result.ways) {
    answer["ways"].push_back({{"name", way.name},
                              {"median_seconds", way.median_seconds},
                              {"over_alone", way.median_seconds / alone - 1},
                              {"waiting_share", way.waiting_share},
                              {"bytes_moved", way.bytes_moved},
                              {"step_seconds", way.step_seconds}});
    if (json) continue;
    std::printf("%-10s %8.1f ms  %+6.1f %%  waiting %5.1f %%  %9.3f MB\n", way.name.c_str(),
                1e3 * way.median_seconds, 100 * (way.median_seconds / alone - 1),
                100 * way.waiting_share, static_cast<double>(way.bytes_moved) / 1e6);
  }
  if (json) {
    std::printf("%s\n", JsonText(answer).c_str());
  } else {
    std::printf("%d ranks of %d threads; median step of the slowest rank, over computing alone\n",
                result.ranks, result.threads);
  }
}

absl::Status RunRanks(const RankOptions& options) {
  return RunOnRanks([&options](const std::shared_ptr<Communicator>& world) -> absl::Status {
    absl::StatusOr<recipe::v1::Recipe> recipe =
        LoadValidRecipe(options.recipe, options.overrides, world->size());
    absl::Status valid = recipe.status();
    if (valid.ok()) valid = CheckRankBenchmark(*recipe, world->size(), options.benchmark);
    PLAIT_RETURN_IF_ERROR(AgreeOnStatus(*world, valid));
    // Not agreed on: a rank that fails alone leaves the others in a step.
    PLAIT_ASSIGN_OR_RETURN(const RankBenchmarkResult result,
                           BenchmarkRanks(*recipe, world, options.benchmark));
    if (world->rank() == 0) PrintRanks(result, options.json);
    return absl::OkStatus();
  });
}

void AddRanks(CLI::App& bench, Action& action) {
  auto options = std::make_shared<RankOptions>();
  CLI::App* ranks = bench.add_subcommand(
      "ranks", "Training steps on several ranks beside the same work without communication");
  ranks->add_option("recipe", options->recipe, "Recipe file (*.textproto)")->required();
  ranks->add_option("--set", options->overrides, "Changes one field: path=value; repeatable")
      ->expected(1)
      ->take_all();
  ranks->add_option("--stage", options->benchmark.stage, "Stage of the recipe, from 0")
      ->capture_default_str();
  ranks->add_option("--rounds", options->benchmark.rounds, "Steps of each way, taken in turns")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  ranks->add_flag("--json", options->json, "Answers with one JSON object");
  ranks->footer(
      "Example: tools/launch/mpirun.sh -n 2 plait bench ranks "
      "recipes/library/demo_pretrain.textproto");
  ranks->callback([options, &action] { action = [options] { return RunRanks(*options); }; });
}

void AddStep(CLI::App& bench, Action& action) {
  auto options = std::make_shared<StepOptions>();
  CLI::App* step = bench.add_subcommand("step", "Training steps of a recipe on made-up tokens");
  step->add_option("recipe", options->recipe, "Recipe file (*.textproto)")->required();
  step->add_option("--set", options->overrides, "Changes one field: path=value; repeatable")
      ->expected(1)
      ->take_all();
  step->add_option("--stage", options->benchmark.stage, "Stage of the recipe, from 0")
      ->capture_default_str();
  step->add_option("--steps", options->benchmark.steps, "Steps that are timed")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  step->add_option("--warmup", options->benchmark.warmup_steps, "Steps before those")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  step->add_option_function<double>(
          "--peak",
          [options](double teraflops) { options->benchmark.peak_flops = 1e12 * teraflops; },
          "TFLOP/s of the device that the model's are a share of; known for H100 and H200 (SXM)")
      ->check(AboveZero());
  step->add_flag("--json", options->json, "Answers with one JSON object");
  step->footer(
      "Example: plait bench step recipes/library/demo_pretrain.textproto --json; plait bench step "
      "recipes/library/hybrid_1b.textproto --set trainer.device=CUDA");
  step->callback([options, &action] { action = [options] { return RunStep(*options); }; });
}

void AddDevices(CLI::App& bench, Action& action) {
  auto options = std::make_shared<DeviceOptions>();
  CLI::App* devices = bench.add_subcommand(
      "devices",
      "The same training steps on a GPU and on the CPU: losses, which must agree, and speed");
  devices->add_option("recipe", options->recipe, "Recipe file (*.textproto)")->required();
  devices->add_option("--set", options->overrides, "Changes one field: path=value; repeatable")
      ->expected(1)
      ->take_all();
  devices->add_option("--stage", options->benchmark.stage, "Stage of the recipe, from 0")
      ->capture_default_str();
  devices->add_option("--steps", options->benchmark.steps, "Steps of each run, on the same tokens")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  devices->add_flag("--json", options->json, "Answers with one JSON object");
  devices->footer(
      "Example: plait bench devices recipes/library/demo_pretrain.textproto\nBoth run at bf16; how "
      "far their losses may be apart is measured by a third run, on the CPU at f32.");
  devices->callback([options, &action] { action = [options] { return RunDevices(*options); }; });
}

}  // namespace

void AddBenchCommand(CLI::App& plait, Action& action) {
  CLI::App* bench = plait.add_subcommand("bench", "Measures speed");
  bench->require_subcommand(1);
  bench->footer("Example: plait bench step recipes/library/demo_pretrain.textproto --json");
  AddStep(*bench, action);
  AddRanks(*bench, action);
  AddDevices(*bench, action);
  AddKernelBenchmarks(*bench, action);
  AddTokenizerBenchmark(*bench, action);
}

}  // namespace plait
