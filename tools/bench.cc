// plait bench step | ranks | kernels | gemm | tokenizer
#include <CLI/CLI.hpp>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/execution.h"
#include "base/status_macros.h"
#include "kernels/cuda/runtime.h"
#include "kernels/gemm_peak.h"
#include "parallel/status_agreement.h"
#include "recipes/recipe_loader.h"
#include "tools/kernel_timer.h"
#include "tools/plait.h"
#include "tools/ranks.h"
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
        {"threads", result.threads},
        {"tokens_per_step", result.tokens_per_step},
        {"step_seconds", result.step_seconds},
        {"median_seconds", result.median_seconds},
        {"tokens_per_second", result.tokens_per_second},
        {"model_flops_per_second", result.model_flops_per_second},
        {"gemm_peak_flops_per_second", result.gemm_peak_flops_per_second},
        {"share_of_gemm_peak", result.share_of_gemm_peak},
        {"memory_bytes", result.memory_bytes},
        {"allocated_bytes_peak", result.allocated_bytes_peak},
        {"seconds_to_first_step", result.seconds_to_first_step}};
    std::printf("%s\n", answer.dump().c_str());
    return absl::OkStatus();
  }
  std::printf("stage %s, %d threads: %.3f s a step of %" PRId64
              " tokens (median of %zu), %.0f tokens/s\n",
              result.stage.c_str(), result.threads, result.median_seconds, result.tokens_per_step,
              result.step_seconds.size(), result.tokens_per_second);
  std::printf("%.2f GFLOP/s, %.1f %% of the GEMM peak of %.2f; %" PRId64
              " MB; first step %.2f s after the process started\n",
              result.model_flops_per_second / 1e9, 100 * result.share_of_gemm_peak,
              result.gemm_peak_flops_per_second / 1e9, result.memory_bytes >> 20,
              result.seconds_to_first_step);
  return absl::OkStatus();
}

// Of `--device`: the CPU or a GPU.
absl::StatusOr<ExecutionOptions> ExecutionOn(const std::string& device, int threads) {
  if (device == "CPU") return ExecutionOptions{.num_threads = threads};
  if (cuda::IsEmulated()) {
    return absl::FailedPreconditionError(
        "--device CUDA: this plait was built without CUDA; build it where nvcc is found");
  }
  PLAIT_ASSIGN_OR_RETURN(const std::shared_ptr<DeviceRuntime> runtime, cuda::Runtime(0));
  return ExecutionOptions{
      .device = {DeviceKind::kCuda, 0}, .runtime = runtime, .num_threads = threads};
}

std::string DeviceName(const Execution& execution) {
  return execution.runtime() == nullptr ? "CPU" : execution.runtime()->DeviceName();
}

void AddDevice(CLI::App& command, std::string& device) {
  command.add_option("--device", device, "What it runs on: CPU, or CUDA for the first GPU")
      ->check(CLI::IsMember({"CPU", "CUDA"}))
      ->capture_default_str();
}

struct GemmOptions {
  std::string device = "CPU";
  bool f32 = false;
  int threads = 0;
  bool json = false;
};

absl::Status RunGemm(const GemmOptions& options) {
  PLAIT_ASSIGN_OR_RETURN(const ExecutionOptions on, ExecutionOn(options.device, options.threads));
  Execution execution(on);
  const DType dtype = options.f32 ? DType::kF32 : DType::kBf16;
  PLAIT_ASSIGN_OR_RETURN(const GemmPeak peak, MeasureGemmPeak(execution, dtype));
  nlohmann::ordered_json answer = {{"benchmark", "gemm"},
                                   {"device", DeviceName(execution)},
                                   {"dtype", Name(dtype)},
                                   {"threads", execution.num_threads()},
                                   {"best_flops_per_second", peak.best_flops_per_second},
                                   {"shapes", nlohmann::ordered_json::array()}};
  for (const GemmRate& rate : peak.rates) {
    answer["shapes"].push_back(
        {{"m", rate.m}, {"n", rate.n}, {"k", rate.k}, {"flops_per_second", rate.flops_per_second}});
    if (options.json) continue;
    std::printf("%6" PRId64 " x %6" PRId64 " x %6" PRId64 "  %9.2f GFLOP/s\n", rate.m, rate.n,
                rate.k, rate.flops_per_second / 1e9);
  }
  if (options.json) {
    std::printf("%s\n", answer.dump().c_str());
  } else {
    std::printf("peak %.2f GFLOP/s, %s, %s, %d threads\n", peak.best_flops_per_second / 1e9,
                Name(dtype), DeviceName(execution).c_str(), execution.num_threads());
  }
  return absl::OkStatus();
}

struct KernelOptions {
  std::string device = "CPU";
  int64_t tokens = 0;
  int threads = 0;
  double seconds = 0.1;
  bool reference = false;
  bool json = false;
};

void PrintKernels(const KernelTimer& timer, const KernelLimits& limits) {
  for (const KernelTiming& timing : timer.timings()) {
    std::printf("%-31s %-12s", timing.operation.c_str(), timing.implementation.c_str());
    if (!timing.refusal.empty()) {
      std::printf(" refused: %s\n", timing.refusal.c_str());
      continue;
    }
    std::printf(" %10.1f us  %8.2f GB/s", 1e6 * timing.seconds,
                timing.work.bytes / timing.seconds / 1e9);
    if (timing.work.flops > 0) {
      std::printf("  %9.2f GFLOP/s", timing.work.flops / timing.seconds / 1e9);
    }
    const LimitedTime least = LeastTime(timing.work, limits);
    if (least.seconds > 0) {
      std::printf("  %5.1f %% of %s", 100 * least.seconds / timing.seconds, least.limit.c_str());
      const double goal = GoalOfKernel(timing.operation);
      if (goal > 0) std::printf(", goal %.0f %%", 100 * goal);
    }
    std::printf("  (%s)\n", timing.shape.c_str());
  }
}

nlohmann::ordered_json Describe(const KernelTiming& timing, const KernelLimits& limits) {
  nlohmann::ordered_json entry = {{"operation", timing.operation},
                                  {"shape", timing.shape},
                                  {"implementation", timing.implementation},
                                  {"refusal", timing.refusal}};
  if (!timing.refusal.empty()) return entry;
  entry["seconds"] = timing.seconds;
  entry["flops_per_second"] = timing.work.flops / timing.seconds;
  entry["bytes_per_second"] = timing.work.bytes / timing.seconds;
  const LimitedTime least = LeastTime(timing.work, limits);
  if (least.seconds > 0) {
    entry["limit"] = least.limit;
    entry["share_of_limit"] = least.seconds / timing.seconds;
    entry["goal"] = GoalOfKernel(timing.operation);
  }
  return entry;
}

absl::Status RunKernels(const KernelOptions& options) {
  PLAIT_ASSIGN_OR_RETURN(const ExecutionOptions on, ExecutionOn(options.device, options.threads));
  Execution execution(on);
  KernelTimer timer(execution, options.seconds, options.reference);
  const bool on_device = execution.runtime() != nullptr;
  KernelSizes sizes = on_device ? KernelSizes::OfJambaLarge() : KernelSizes::OfDemo();
  if (options.tokens > 0) sizes.tokens = options.tokens;
  KernelLimits limits;
  if (on_device) {
    PLAIT_ASSIGN_OR_RETURN(limits, MeasureKernelLimits(execution));
  }
  PLAIT_RETURN_IF_ERROR(TimeKernels(timer, sizes));
  if (options.json) {
    nlohmann::ordered_json answer = {{"benchmark", "kernels"},
                                     {"device", DeviceName(execution)},
                                     {"threads", execution.num_threads()}};
    if (on_device) {
      answer["limits"] = {{"bytes_per_second", limits.bytes},
                          {"flops_per_second", limits.flops},
                          {"exponentials_per_second", limits.exponentials},
                          {"vector_operations_per_second", limits.vector_operations}};
    }
    answer["kernels"] = nlohmann::ordered_json::array();
    for (const KernelTiming& timing : timer.timings()) {
      answer["kernels"].push_back(Describe(timing, limits));
    }
    std::printf("%s\n", answer.dump().c_str());
    return absl::OkStatus();
  }
  PrintKernels(timer, limits);
  if (on_device) {
    std::printf(
        "%s: copy %.0f GB/s, GEMM %.0f TFLOP/s measured; %.2f T exp/s, %.1f T f32 "
        "multiply-adds/s of the chip\n",
        DeviceName(execution).c_str(), limits.bytes / 1e9, limits.flops / 1e12,
        limits.exponentials / 1e12, limits.vector_operations / 1e12);
  }
  return absl::OkStatus();
}

void AddKernels(CLI::App& bench, Action& action) {
  auto options = std::make_shared<KernelOptions>();
  CLI::App* kernels =
      bench.add_subcommand("kernels", "Every implementation of every operation, by itself");
  AddDevice(*kernels, options->device);
  kernels
      ->add_option("--tokens", options->tokens,
                   "Tokens of a microbatch; 4096 on a CPU, 8192 on a GPU")
      ->check(CLI::PositiveNumber);
  kernels->add_option("--seconds", options->seconds, "Time spent on each, at least three runs")
      ->capture_default_str();
  kernels->add_option("--threads", options->threads, "0: every core")->capture_default_str();
  kernels->add_flag("--reference", options->reference, "The references too; they are slow");
  kernels->add_flag("--json", options->json, "Answers with one JSON object");
  kernels->footer(
      "Example: plait bench kernels --tokens 4096 --json; plait bench kernels --device CUDA\nA "
      "CPU's shapes are those of the demo's recipe, a GPU's those of Jamba 1.5 Large. A GPU's "
      "times are shares of what limits a kernel: bytes by the rate of a copy, matrix products by "
      "the best one, the scan by exponentials.");
  kernels->callback([options, &action] { action = [options] { return RunKernels(*options); }; });
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
    std::printf("%s\n", answer.dump().c_str());
  } else {
    std::printf("%d ranks of %d threads; median step of the slowest rank, over computing alone\n",
                result.ranks, result.threads);
  }
}

absl::Status RunRanks(const RankOptions& options) {
  return RunOnRanks([&options](const std::shared_ptr<Communicator>& world) -> absl::Status {
    absl::StatusOr<recipe::v1::Recipe> recipe =
        LoadValidRecipe(options.recipe, options.overrides, world->size());
    PLAIT_RETURN_IF_ERROR(AgreeOnStatus(*world, recipe.status()));
    absl::StatusOr<RankBenchmarkResult> result = BenchmarkRanks(*recipe, world, options.benchmark);
    PLAIT_RETURN_IF_ERROR(AgreeOnStatus(*world, result.status()));
    if (world->rank() == 0) PrintRanks(*result, options.json);
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
  step->add_flag("--json", options->json, "Answers with one JSON object");
  step->footer("Example: plait bench step recipes/library/demo_pretrain.textproto --json");
  step->callback([options, &action] { action = [options] { return RunStep(*options); }; });
}

void AddGemm(CLI::App& bench, Action& action) {
  auto options = std::make_shared<GemmOptions>();
  CLI::App* gemm = bench.add_subcommand("gemm", "The matrix product's best rate on this machine");
  gemm->add_flag("--f32", options->f32, "f32 in place of bf16");
  AddDevice(*gemm, options->device);
  gemm->add_option("--threads", options->threads, "0: every core")->capture_default_str();
  gemm->add_flag("--json", options->json, "Answers with one JSON object");
  gemm->footer("Example: plait bench gemm --json");
  gemm->callback([options, &action] { action = [options] { return RunGemm(*options); }; });
}

}  // namespace

void AddBenchCommand(CLI::App& plait, Action& action) {
  CLI::App* bench = plait.add_subcommand("bench", "Measures speed");
  bench->require_subcommand(1);
  bench->footer("Example: plait bench step recipes/library/demo_pretrain.textproto --json");
  AddStep(*bench, action);
  AddRanks(*bench, action);
  AddKernels(*bench, action);
  AddGemm(*bench, action);
  AddTokenizerBenchmark(*bench, action);
}

}  // namespace plait
