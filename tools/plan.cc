// plait plan
#include "trainer/plan.h"

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
#include "recipes/recipe_defaults.h"
#include "recipes/recipe_loader.h"
#include "recipes/recipe_overrides.h"
#include "recipes/recipe_validation.h"
#include "tools/plait.h"

namespace plait {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string recipe;
  std::vector<std::string> overrides;
  PlanOptions plan;
  bool json = false;
};

// "12.3 GB"
std::string BytesText(int64_t bytes) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  auto value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1000 && unit < 5) {
    value /= 1000;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.3g %s", value, units[unit]);
  return text;
}

std::string SecondsText(double seconds) {
  char text[32];
  if (seconds >= 1) {
    std::snprintf(text, sizeof(text), "%.3g s", seconds);
  } else if (seconds >= 1e-3) {
    std::snprintf(text, sizeof(text), "%.3g ms", 1e3 * seconds);
  } else {
    std::snprintf(text, sizeof(text), "%.3g us", 1e6 * seconds);
  }
  return text;
}

std::string LayoutText(const Plan& plan) {
  std::string text;
  for (int axis = 0; axis < kNumMeshAxes; ++axis) {
    if (plan.sizes[axis] == 1) continue;
    const auto named = static_cast<MeshAxis>(axis);
    absl::StrAppend(&text,
                    text.empty()                 ? ""
                    : named == MeshAxis::kExpert ? ", "
                                                 : " x ",
                    std::string(Name(named)), " ", plan.sizes[axis]);
  }
  return text.empty() ? "one rank" : text;
}

bool Fits(const Plan& plan, const StagePlan& stage) {
  return plan.machine.memory_bytes == 0 || stage.memory.total <= plan.machine.memory_bytes;
}

Json StageJson(const Plan& plan, const StagePlan& stage) {
  Json memory = {{"total_bytes", stage.memory.total},
                 {"worst_routing_total_bytes", stage.memory.worst_total},
                 {"device_bytes", plan.machine.memory_bytes},
                 {"fits", Fits(plan, stage)},
                 {"pinned_bytes", stage.memory.pinned},
                 {"classes", Json::object()},
                 {"blocks", Json::array()}};
  for (int c = 0; c < kNumMemoryClasses; ++c) {
    memory["classes"][std::string(Name(static_cast<MemoryClass>(c)))] = stage.memory.classes[c];
  }
  for (const BlockKindMemory& kind : stage.memory.kinds) {
    memory["blocks"].push_back({{"kind", kind.kind},
                                {"blocks", kind.blocks},
                                {"kept_bytes", kind.kept},
                                {"workspace_bytes", kind.workspace}});
  }
  Json collectives = Json::array();
  for (const PlannedCollective& collective : stage.communication.collectives) {
    collectives.push_back({{"what", collective.what},
                           {"axes", collective.ranks},
                           {"operation", Name(collective.operation)},
                           {"ranks", collective.size},
                           {"calls", collective.calls},
                           {"bytes", collective.bytes}});
  }
  const StepEstimate& time = stage.estimate;
  return {{"name", stage.name},
          {"row_tokens", stage.row_tokens},
          {"microbatch_tokens", stage.microbatch_tokens},
          {"microbatches", stage.microbatches},
          {"tokens_per_step", stage.tokens_per_step},
          {"flops_per_token", stage.flops_per_token},
          {"pipeline_stage", stage.pipeline_stage},
          {"memory", memory},
          {"collectives", collectives},
          {"time",
           {{"matmul_seconds", time.matmul},
            {"attention_seconds", time.attention},
            {"scan_seconds", time.scan},
            {"elementwise_seconds", time.elementwise},
            {"weights_seconds", time.weights},
            {"exchange_seconds", time.exchange},
            {"exposed_seconds", time.exposed},
            {"replicas_seconds", time.replicas},
            {"optimizer_seconds", time.optimizer},
            {"latency_seconds", time.latency},
            {"bubble_seconds", time.bubble},
            {"step_seconds", time.step},
            {"tokens_per_second", time.tokens_per_second},
            {"mfu", time.mfu}}}};
}

Json PlanJson(const Plan& plan) {
  Json axes = Json::object();
  for (int axis = 0; axis < kNumMeshAxes; ++axis) {
    axes[std::string(Name(static_cast<MeshAxis>(axis)))] = plan.sizes[axis];
  }
  Json answer = {{"legal", true},
                 {"problems", Json::array()},
                 {"fits", std::all_of(plan.stages.begin(), plan.stages.end(),
                                      [&plan](const auto& stage) { return Fits(plan, stage); })},
                 {"ranks", plan.ranks},
                 {"axes", axes},
                 {"device", plan.machine.name},
                 {"device_remark", plan.machine.remark},
                 {"threads_per_rank", plan.threads_per_rank},
                 {"parameters", plan.parameters.total},
                 {"active_parameters_per_token", plan.parameters.active_per_token},
                 {"stages", Json::array()}};
  for (const StagePlan& stage : plan.stages) answer["stages"].push_back(StageJson(plan, stage));
  return answer;
}

void PrintMemory(const Plan& plan, const StagePlan& stage) {
  std::printf("  memory of a rank           %10s", BytesText(stage.memory.total).c_str());
  if (plan.machine.memory_bytes > 0) {
    std::printf("  of %s%s", BytesText(plan.machine.memory_bytes).c_str(),
                Fits(plan, stage) ? "" : ": DOES NOT FIT");
  }
  std::printf("\n");
  for (int c = 0; c < kNumMemoryClasses; ++c) {
    if (stage.memory.classes[c] == 0) continue;
    std::printf("    %-25s%10s\n", std::string(Name(static_cast<MemoryClass>(c))).c_str(),
                BytesText(stage.memory.classes[c]).c_str());
  }
  if (stage.memory.worst_total > stage.memory.total) {
    std::printf("    %-25s%10s  if every token chose experts of one rank\n", "at worst",
                BytesText(stage.memory.worst_total).c_str());
  }
  if (stage.memory.pinned > 0) {
    std::printf("    %-25s%10s  of the host, beside that\n", "pinned",
                BytesText(stage.memory.pinned).c_str());
  }
  std::printf("  activations by block         blocks       kept  workspace\n");
  for (const BlockKindMemory& kind : stage.memory.kinds) {
    std::printf("    %-25s%8" PRId64 " %10s %10s\n", kind.kind.c_str(), kind.blocks,
                BytesText(kind.kept).c_str(), BytesText(kind.workspace).c_str());
  }
}

void PrintCommunication(const StagePlan& stage) {
  if (stage.communication.collectives.empty()) return;
  std::printf("  received by a rank in a step %s\n",
              BytesText(stage.communication.total()).c_str());
  for (const PlannedCollective& collective : stage.communication.collectives) {
    std::printf("    %-28s %-16s %-22s %4" PRId64 " ranks %8" PRId64 " calls %10s\n",
                collective.what.c_str(), std::string(Name(collective.operation)).c_str(),
                collective.ranks.c_str(), collective.size, collective.calls,
                BytesText(collective.bytes).c_str());
  }
}

void PrintTime(const StagePlan& stage) {
  const StepEstimate& time = stage.estimate;
  std::printf("  a step should take %s: %.4g tokens/s, MFU %.1f %%\n",
              SecondsText(time.step).c_str(), time.tokens_per_second, 100 * time.mfu);
  std::printf("    a microbatch (%" PRId64
              " a step): products %s, attention %s, scan %s, elementwise %s; weights and "
              "gradients %s, exchange %s, exposed %s\n",
              stage.microbatches, SecondsText(time.matmul).c_str(),
              SecondsText(time.attention).c_str(), SecondsText(time.scan).c_str(),
              SecondsText(time.elementwise).c_str(), SecondsText(time.weights).c_str(),
              SecondsText(time.exchange).c_str(), SecondsText(time.exposed).c_str());
  std::printf("    a step besides: replicas %s, optimizer %s, latency %s, pipeline bubble %s\n",
              SecondsText(time.replicas).c_str(), SecondsText(time.optimizer).c_str(),
              SecondsText(time.latency).c_str(), SecondsText(time.bubble).c_str());
}

void PrintPlan(const Plan& plan) {
  std::printf("%" PRId64 " ranks of %s: %s\n", plan.ranks, plan.machine.name.c_str(),
              LayoutText(plan).c_str());
  std::printf("(%s)\n", plan.machine.remark.c_str());
  std::printf("%" PRId64 " parameters, %" PRId64 " active per token; recomputation %s\n",
              plan.parameters.total, plan.parameters.active_per_token,
              plan.recomputation == Recomputation::kBlocks ? "BLOCKS" : "NONE");
  for (const StagePlan& stage : plan.stages) {
    std::printf("\nstage %s: rows of %" PRId64 " tokens, %" PRId64 " microbatches of %" PRId64
                " a rank, %" PRId64 " tokens a step, %.4g GFLOP a token\n",
                stage.name.c_str(), stage.row_tokens, stage.microbatches, stage.microbatch_tokens,
                stage.tokens_per_step, stage.flops_per_token / 1e9);
    if (plan.sizes[static_cast<int>(MeshAxis::kPipeline)] > 1) {
      std::printf("  of pipeline stage %" PRId64 ", which holds most:\n", stage.pipeline_stage);
    }
    PrintMemory(plan, stage);
    PrintCommunication(stage);
    PrintTime(stage);
  }
}

absl::Status Run(const Options& options) {
  PLAIT_ASSIGN_OR_RETURN(recipe::v1::Recipe recipe, LoadRecipe(options.recipe));
  for (const std::string& assignment : options.overrides) {
    PLAIT_RETURN_IF_ERROR(ApplyOverride(assignment, recipe));
  }
  recipe = Resolved(recipe);
  const std::vector<RecipeProblem> problems = RecipeProblems(recipe, options.plan.ranks);
  if (!problems.empty()) {
    Json answer = {{"legal", false}, {"problems", Json::array()}};
    std::string lines;
    for (const RecipeProblem& problem : problems) {
      answer["problems"].push_back(
          {{"field", problem.field}, {"value", problem.value}, {"rule", problem.rule}});
      absl::StrAppend(&lines, lines.empty() ? "" : "\n", problem.ToString());
    }
    if (options.json) std::printf("%s\n", JsonText(answer).c_str());
    return absl::InvalidArgumentError(lines);
  }
  PLAIT_ASSIGN_OR_RETURN(const Plan plan, MakePlan(recipe, options.plan));
  if (options.json) {
    std::printf("%s\n", JsonText(PlanJson(plan)).c_str());
  } else {
    PrintPlan(plan);
  }
  return absl::OkStatus();
}

}  // namespace

void AddPlanCommand(CLI::App& plait, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* plan = plait.add_subcommand(
      "plan", "Memory, traffic and time of a recipe on some ranks, or why it cannot run on them");
  plan->add_option("recipe", options->recipe, "Recipe file (*.textproto)")->required();
  plan->add_option("--ranks", options->plan.ranks, "Ranks of the run")
      ->check(CLI::Range(1, 1'000'000))
      ->required();
  plan->add_option("--device", options->plan.device, "H100, H200 or CPU")
      ->check(CLI::IsMember({"H100", "H200", "CPU"}))
      ->capture_default_str();
  plan->add_option("--set", options->overrides, "Changes one field: path=value; repeatable")
      ->expected(1)
      ->take_all();
  plan->add_flag("--json", options->json, "Answers with one JSON object");
  plan->footer(
      "Example: plait plan recipes/library/jamba_1_5_large.textproto --ranks 512 "
      "--set parallel.context=32 --set parallel.expert=8 --set stages.0.rows_per_microbatch=64");
  plan->callback([options, &action] { action = [options] { return Run(*options); }; });
}

}  // namespace plait
