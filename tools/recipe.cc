// plait recipe show | validate
#include <google/protobuf/util/json_util.h>

#include <CLI/CLI.hpp>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/json_text.h"
#include "base/status_macros.h"
#include "recipes/layer_pattern.h"
#include "recipes/parameter_count.h"
#include "recipes/recipe_defaults.h"
#include "recipes/recipe_digest.h"
#include "recipes/recipe_loader.h"
#include "recipes/recipe_overrides.h"
#include "recipes/recipe_validation.h"
#include "tools/plait.h"

namespace plait {
namespace {

using recipe::v1::Recipe;

struct Options {
  std::string path;
  std::vector<std::string> overrides;
  int64_t ranks = kAnyWorldSize;
  bool json = false;
};

nlohmann::ordered_json CountsJson(const Recipe& recipe, const ParameterCount& count) {
  nlohmann::ordered_json counts = {{"total", count.total},
                                   {"in_experts", count.in_experts},
                                   {"active_per_token", count.active_per_token},
                                   {"matmul_active_per_token", count.matmul_active_per_token},
                                   {"attention_layers", count.attention_layers},
                                   {"mamba_layers", count.mamba_layers},
                                   {"expert_layers", count.expert_layers},
                                   {"dense_layers", count.dense_layers},
                                   {"kv_elements_per_token", count.kv_elements_per_token}};
  for (const auto& stage : recipe.stages()) {
    counts["model_flops_per_token"].push_back(ModelFlopsPerToken(count, stage.row_tokens()));
  }
  return counts;
}

absl::Status Show(const Options& options) {
  PLAIT_ASSIGN_OR_RETURN(const Recipe recipe,
                         LoadValidRecipe(options.path, options.overrides, options.ranks));
  PLAIT_ASSIGN_OR_RETURN(const ParameterCount count, CountParameters(recipe.model()));
  PLAIT_ASSIGN_OR_RETURN(const std::vector<LayerKind> layers, LayersOf(recipe.model()));
  if (!options.json) {
    std::printf("# parameters: %" PRId64 " in all, %" PRId64 " active per token\n# layers: %s\n",
                count.total, count.active_per_token, ShortestPattern(layers).c_str());
    std::printf("# digest: %s\n%s", RecipeDigest(recipe).c_str(), RecipeText(recipe).c_str());
    return absl::OkStatus();
  }
  std::string fields;
  google::protobuf::util::JsonPrintOptions print;
  print.preserve_proto_field_names = true;
  if (!google::protobuf::util::MessageToJsonString(recipe, &fields, print).ok())
    return absl::InternalError("recipe: cannot be written as JSON");
  const nlohmann::ordered_json answer = {{"digest", RecipeDigest(recipe)},
                                         {"pattern", ShortestPattern(layers)},
                                         {"parameters", CountsJson(recipe, count)},
                                         {"recipe", nlohmann::ordered_json::parse(fields)}};
  std::printf("%s\n", JsonText(answer).c_str());
  return absl::OkStatus();
}

absl::Status Validate(const Options& options) {
  if (!options.json) {
    PLAIT_RETURN_IF_ERROR(LoadValidRecipe(options.path, options.overrides, options.ranks).status());
    std::printf("%s: valid\n", options.path.c_str());
    return absl::OkStatus();
  }
  PLAIT_ASSIGN_OR_RETURN(Recipe recipe, LoadRecipe(options.path));
  for (const std::string& assignment : options.overrides)
    PLAIT_RETURN_IF_ERROR(ApplyOverride(assignment, recipe));
  const std::vector<RecipeProblem> problems = RecipeProblems(Resolved(recipe), options.ranks);
  nlohmann::ordered_json answer = {{"valid", problems.empty()},
                                   {"problems", nlohmann::ordered_json::array()}};
  for (const RecipeProblem& problem : problems) {
    answer["problems"].push_back(
        {{"field", problem.field}, {"value", problem.value}, {"rule", problem.rule}});
  }
  std::printf("%s\n", JsonText(answer).c_str());
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(options.path, ": ", problems.size(), " problems"));
}

void AddVerb(CLI::App& command, const std::string& name, const std::string& description,
             absl::Status (*run)(const Options&), Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = command.add_subcommand(name, description);
  verb->add_option("recipe", options->path, "Recipe file (*.textproto)")->required();
  verb->add_option("--set", options->overrides, "Changes one field: path=value; repeatable")
      ->expected(1)
      ->take_all();
  verb->add_option("--ranks", options->ranks, "Checks the mesh for this many ranks")
      ->check(CLI::Range(1, 1'000'000));
  verb->add_flag("--json", options->json, "Answers with one JSON object");
  verb->footer("Example: plait recipe " + name +
               " recipes/library/demo_pretrain.textproto --set stages.0.steps=200");
  verb->callback([options, run, &action] { action = [options, run] { return run(*options); }; });
}

}  // namespace

void AddRecipeCommand(CLI::App& plait, Action& action) {
  CLI::App* command = plait.add_subcommand("recipe", "Shows or checks a recipe");
  command->require_subcommand(1);
  command->footer("Example: plait recipe show recipes/library/llama_2_7b.textproto");
  AddVerb(*command, "show", "Prints the recipe with every default written out", Show, action);
  AddVerb(*command, "validate", "Reports every problem of the recipe at once", Validate, action);
}

}  // namespace plait
