// plait bench kernels | gemm
#include <CLI/CLI.hpp>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/execution.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "kernels/cuda/runtime.h"
#include "kernels/gemm_peak.h"
#include "tools/kernel_cases.h"
#include "tools/kernel_limits.h"
#include "tools/kernel_timer.h"
#include "tools/option_checks.h"
#include "tools/plait.h"

namespace plait {
namespace {

// Of `--device`: the CPU or a GPU.
absl::StatusOr<ExecutionOptions> ExecutionOn(const std::string& device, int threads) {
  if (device == "CPU") return ExecutionOptions{.num_threads = threads};
  auto options = cuda::OptionsOn(0, threads);
  return options.ok() ? options : Annotate(options.status(), "--device CUDA");
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
    std::printf("%s\n", JsonText(answer).c_str());
  } else {
    std::printf("peak %.2f GFLOP/s, %s, %s, %d threads\n", peak.best_flops_per_second / 1e9,
                Name(dtype), DeviceName(execution).c_str(), execution.num_threads());
  }
  return absl::OkStatus();
}

struct KernelOptions {
  std::string device = "CPU", shapes;
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

// shapes: as the command line has it; empty: those that suit the device.
KernelSizes SizesOf(const std::string& shapes, bool on_device) {
  if (shapes == "TINY") return KernelSizes::Tiny();
  if (shapes == "JAMBA_LARGE" || (shapes.empty() && on_device)) return KernelSizes::OfJambaLarge();
  return KernelSizes::OfDemo();
}

absl::Status RunKernels(const KernelOptions& options) {
  PLAIT_ASSIGN_OR_RETURN(const ExecutionOptions on, ExecutionOn(options.device, options.threads));
  Execution execution(on);
  KernelTimer timer(execution, options.seconds, options.reference);
  const bool on_device = execution.runtime() != nullptr;
  KernelSizes sizes = SizesOf(options.shapes, on_device);
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
    std::printf("%s\n", JsonText(answer).c_str());
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
      ->add_option("--shapes", options->shapes,
                   "Of which model: DEMO (on a CPU), JAMBA_LARGE (on a GPU), TINY")
      ->check(CLI::IsMember({"DEMO", "JAMBA_LARGE", "TINY"}));
  kernels
      ->add_option("--tokens", options->tokens,
                   "Tokens of a microbatch; DEMO: 4096, JAMBA_LARGE: 8192")
      ->check(AboveZero());
  kernels->add_option("--seconds", options->seconds, "Time spent on each, at least three runs")
      ->check(NotNegative())
      ->capture_default_str();
  kernels->add_option("--threads", options->threads, "0: every core")
      ->check(ThreadCount())
      ->capture_default_str();
  kernels->add_flag("--reference", options->reference, "The references too; they are slow");
  kernels->add_flag("--json", options->json, "Answers with one JSON object");
  kernels->footer(
      "Example: plait bench kernels --tokens 4096 --json; plait bench kernels --device CUDA\nA "
      "CPU's shapes are those of the demo's recipe, a GPU's those of Jamba 1.5 Large. A GPU's "
      "times are shares of what limits a kernel: bytes by the rate of a copy, matrix products by "
      "the best one, the scan by exponentials.");
  kernels->callback([options, &action] { action = [options] { return RunKernels(*options); }; });
}

void AddGemm(CLI::App& bench, Action& action) {
  auto options = std::make_shared<GemmOptions>();
  CLI::App* gemm = bench.add_subcommand("gemm", "The matrix product's best rate on this machine");
  gemm->add_flag("--f32", options->f32, "f32 in place of bf16");
  AddDevice(*gemm, options->device);
  gemm->add_option("--threads", options->threads, "0: every core")
      ->check(ThreadCount())
      ->capture_default_str();
  gemm->add_flag("--json", options->json, "Answers with one JSON object");
  gemm->footer("Example: plait bench gemm --json");
  gemm->callback([options, &action] { action = [options] { return RunGemm(*options); }; });
}

}  // namespace

void AddKernelBenchmarks(CLI::App& bench, Action& action) {
  AddKernels(bench, action);
  AddGemm(bench, action);
}

}  // namespace plait
