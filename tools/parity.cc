// plait parity
#include "trainer/parity.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/exit_code.h"
#include "base/foreign_hdf5_file.h"
#include "base/json_text.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "checkpoint/checkpoint_reader.h"
#include "recipes/hugging_face_config.h"
#include "recipes/recipe_defaults.h"
#include "recipes/recipe_loader.h"
#include "recipes/recipe_validation.h"
#include "tools/plait.h"
#include "trainer/model_runtime.h"

namespace plait {
namespace {

using recipe::v1::Recipe;

constexpr char kConfigName[] = "config.json";
// Below it a rounding may choose another expert than the reference's.
constexpr double kSafeRoutingGap = 1e-4;

struct Options {
  std::string checkpoint;
  std::string reference;
  std::optional<double> tolerance_logits, tolerance_loss, tolerance_gradients;
  bool json = false;
};

absl::StatusOr<Recipe> RecipeOf(const CheckpointReader& reader) {
  PLAIT_ASSIGN_OR_RETURN(Recipe recipe,
                         ParseRecipe(reader.description().recipe_text, reader.folder()));
  recipe.clear_parallel();  // of the ranks that trained it; here is one
  recipe = Resolved(recipe);
  PLAIT_RETURN_IF_ERROR(ValidateRecipe(recipe, /*world_size=*/1, RecipeUse::kModelOnly));
  return recipe;
}

// What the checkpoint says of padding and ends: a converted one carries the config.json it was made
// from.
absl::StatusOr<ParityOptions> ParityOptionsOf(const Options& options,
                                              const CheckpointReader& reader,
                                              const Recipe& recipe) {
  ParityOptions parity{
      .tolerance_logits = options.tolerance_logits,
      .tolerance_loss = options.tolerance_loss,
      .tolerance_gradients = options.tolerance_gradients,
      .auxiliary_loss_coefficient = recipe.model().experts().balance_loss_coefficient()};
  const absl::StatusOr<std::string> config = reader.Attachment(kConfigName);
  if (absl::IsNotFound(config.status())) return parity;
  PLAIT_RETURN_IF_ERROR(config.status());
  PLAIT_ASSIGN_OR_RETURN(
      const HuggingFaceTokenIds ids,
      TokenIdsFromHuggingFace(*config, "", absl::StrCat(reader.folder(), "/", kConfigName)));
  parity.padding_id = ids.pad;
  parity.end_ids = ids.eos;
  return parity;
}

std::string Versions(const ForeignHdf5File& reference) {
  std::string text;
  for (const char* library : {"transformers", "torch"}) {
    const auto version = reference.StringAttribute(absl::StrCat(library, "_version"));
    if (version.ok() && version->has_value())
      absl::StrAppend(&text, text.empty() ? "" : ", ", library, " ", **version);
  }
  return text;
}

void WarnOfCloseExperts(const ForeignHdf5File& reference) {
  const auto gap = reference.NumberAttribute("routing_gap");
  if (!gap.ok() || !gap->has_value() || **gap >= kSafeRoutingGap) return;
  LogWarning(absl::StrCat(reference.path(), ": two experts' probabilities differ by ", **gap,
                          " only: rounding may choose another one; try other tokens"));
}

std::string IndexText(const ParityDifference& difference) {
  return absl::StrCat("[", absl::StrJoin(difference.index, ", "), "]");
}

void PrintTable(const ParityReport& report) {
  size_t width = 6;
  for (const ParityDifference& difference : report.differences)
    width = std::max(width, difference.name.size());
  const auto columns = static_cast<int>(width);
  std::printf("%-*s  %-16s %14s %14s %9s %9s\n", columns, "tensor", "worst element", "ours",
              "reference", "error", "tolerance");
  for (const ParityDifference& difference : report.differences) {
    std::printf("%-*s  %-16s %14.7g %14.7g %9.1e %9.1e%s\n", columns, difference.name.c_str(),
                IndexText(difference).c_str(), difference.ours, difference.reference,
                difference.error, difference.tolerance, difference.passed() ? "" : "  FAILED");
  }
  if (report.auxiliary_loss_coefficient != 0) {
    std::printf("the loss has %g x auxiliary_loss in it\n", report.auxiliary_loss_coefficient);
  }
  if (!report.without_gradient.empty()) {
    std::printf("%zu parameters without a gradient in the reference, the first %s\n",
                report.without_gradient.size(), report.without_gradient[0].c_str());
  }
}

void PrintJson(const std::string& checkpoint, const std::string& reference,
               const ParityReport& report) {
  nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
  for (const ParityDifference& difference : report.differences) {
    tensors.push_back({{"name", difference.name},
                       {"index", difference.index},
                       {"ours", difference.ours},
                       {"reference", difference.reference},
                       {"error", difference.error},
                       {"tolerance", difference.tolerance},
                       {"passed", difference.passed()}});
  }
  const nlohmann::ordered_json answer = {
      {"checkpoint", checkpoint},
      {"reference", reference},
      {"passed", report.passed()},
      {"auxiliary_loss_coefficient", report.auxiliary_loss_coefficient},
      {"without_gradient", report.without_gradient},
      {"tensors", tensors}};
  std::printf("%s\n", JsonText(answer).c_str());
}

// Exit code 3, naming the worst of those that failed.
absl::Status Verdict(const ParityReport& report) {
  if (report.passed()) return absl::OkStatus();
  const ParityDifference* worst = nullptr;
  int failed = 0;
  for (const ParityDifference& difference : report.differences) {
    if (difference.passed()) continue;
    ++failed;
    // NaN is the worst of all.
    if (worst == nullptr ||
        !(difference.error / difference.tolerance <= worst->error / worst->tolerance)) {
      worst = &difference;
    }
  }
  return WithExitCode(
      absl::FailedPreconditionError(absl::StrFormat(
          "%d of %d tensors differ from the reference by more than their tolerance; %s%s: ours "
          "%.7g, reference %.7g, error %.1e, tolerance %.1e",
          failed, report.differences.size(), worst->name, IndexText(*worst), worst->ours,
          worst->reference, worst->error, worst->tolerance)),
      ExitCode::kBadCheckpoint);
}

absl::Status Run(const Options& options) {
  PLAIT_ASSIGN_OR_RETURN(const ForeignHdf5File reference, ForeignHdf5File::Open(options.reference));
  std::vector<RejectedCheckpoint> rejected;
  const absl::StatusOr<CheckpointReader> reader =
      OpenCheckpointOrRun(options.checkpoint, &rejected);
  for (const RejectedCheckpoint& bad : rejected)
    LogWarning(absl::StrCat("passed over: ", bad.reason));
  PLAIT_RETURN_IF_ERROR(reader.status());
  PLAIT_ASSIGN_OR_RETURN(const Recipe recipe, RecipeOf(*reader));
  PLAIT_ASSIGN_OR_RETURN(const ParityOptions parity, ParityOptionsOf(options, *reader, recipe));
  PLAIT_ASSIGN_OR_RETURN(const ExecutionOptions execution_options, ExecutionOptionsFor(recipe));
  Execution execution(execution_options);
  const Recipe compared = ParityRecipe(recipe);
  PLAIT_ASSIGN_OR_RETURN(ModelRuntime runtime, ModelRuntime::Create(execution, compared));
  PLAIT_RETURN_IF_ERROR(LoadWeights(*reader, compared, runtime));
  WarnOfCloseExperts(reference);
  PLAIT_ASSIGN_OR_RETURN(const ParityReport report,
                         CompareWithReference(execution, runtime, reference, parity));
  if (options.json) {
    PrintJson(reader->folder(), options.reference, report);
  } else {
    std::printf("%s, f32, beside %s (%s)\n", reader->folder().c_str(), options.reference.c_str(),
                Versions(reference).c_str());
    PrintTable(report);
  }
  return Verdict(report);
}

}  // namespace

void AddParityCommand(CLI::App& plait, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      plait.add_subcommand("parity", "Compares a checkpoint with what transformers computes");
  command->add_option("checkpoint", options->checkpoint, "A checkpoint, or the folder of a run")
      ->required();
  command
      ->add_option("reference", options->reference,
                   "HDF5 file that tools/make_parity_fixtures.py made of the same weights")
      ->required();
  // Absent: the file's attribute, else the default.
  command->add_option(
      "--tolerance-logits", options->tolerance_logits,
      "Relative to the logits' root mean square where it is above 1; default 1e-4 or "
      "what the file says");
  command->add_option("--tolerance-loss", options->tolerance_loss,
                      "Relative to the loss where it is above 1; default 1e-5");
  command->add_option("--tolerance-gradients", options->tolerance_gradients,
                      "Relative to each tensor's largest element; default 1e-4");
  command->add_flag("--json", options->json, "Answers with one JSON object");
  command->footer(
      "Exit code 3 where a tensor is past its tolerance.\n"
      "Example: tools/make_parity_fixtures.py --model jamba/ --output jamba.h5 &&\n"
      "         plait convert jamba/ jamba.plait && plait parity jamba.plait jamba.h5");
  command->callback([options, &action] { action = [options] { return Run(*options); }; });
}

}  // namespace plait
