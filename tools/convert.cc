// plait convert
#include <signal.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "checkpoint/manifest_file.h"
#include "parallel/status_agreement.h"
#include "tools/conversion.h"
#include "tools/option_checks.h"
#include "tools/plait.h"
#include "tools/ranks.h"

namespace plait {
namespace {

struct Options {
  ConversionOptions conversion;
  std::string dtype;
  bool json = false;
};

// A signal handler reaches nothing but a global.
std::atomic<bool> stop_requested{false};

// The first SIGINT, SIGTERM or SIGUSR1 ends the conversion and removes what it made; a second one
// ends the process at once, and what it made stays under its temporary name.
void StopOnSignals() {
  struct sigaction action {};
  action.sa_handler = [](int) { stop_requested = true; };
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) ::sigaction(signal, &action, nullptr);
}

enum class SourceKind { kHuggingFace, kPlait };

// By what the folder holds. A checkpoint that was converted holds a config.json too.
absl::StatusOr<SourceKind> KindOf(const std::string& path) {
  std::error_code ignored;
  const std::filesystem::path folder(path);
  if (std::filesystem::exists(folder / kCheckpointManifestName, ignored) ||
      std::filesystem::is_directory(folder / "checkpoints", ignored)) {
    return SourceKind::kPlait;
  }
  if (std::filesystem::exists(folder / "config.json", ignored)) return SourceKind::kHuggingFace;
  return WithExitCode(absl::NotFoundError(absl::StrCat(
                          path, ": neither a model folder (config.json), nor a checkpoint (",
                          kCheckpointManifestName, "), nor a run (checkpoints/)")),
                      ExitCode::kBadCheckpoint);
}

absl::StatusOr<ConversionResult> Convert(Communicator& world, const ConversionOptions& options) {
  const absl::StatusOr<SourceKind> kind = KindOf(options.source);
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(world, kind.status()));
  return *kind == SourceKind::kHuggingFace ? ImportHuggingFace(world, options)
                                           : ExportHuggingFace(world, options);
}

void Print(const Options& options, const ConversionResult& result) {
  const ConversionOptions& conversion = options.conversion;
  if (options.json) {
    const nlohmann::ordered_json answer = {{"source", conversion.source},
                                           {"target", conversion.target},
                                           {"direction", result.direction},
                                           {"model_type", result.model_type},
                                           {"dtype", result.dtype},
                                           {"source_tensors", result.source_tensors},
                                           {"target_tensors", result.target_tensors},
                                           {"target_bytes", result.target_bytes},
                                           {"seconds", result.seconds}};
    std::printf("%s\n", JsonText(answer).c_str());
    return;
  }
  std::printf("%s: %s, %" PRId64 " tensors of %s made of %" PRId64 ", %.1f MB in %.1f s\n",
              conversion.target.c_str(), result.model_type.c_str(), result.target_tensors,
              result.dtype.c_str(), result.source_tensors,
              static_cast<double>(result.target_bytes) / 1e6, result.seconds);
}

absl::Status Run(Options options) {
  if (options.dtype == "BF16") options.conversion.dtype = DType::kBf16;
  if (options.dtype == "F16") options.conversion.dtype = DType::kF16;
  if (options.dtype == "F32") options.conversion.dtype = DType::kF32;
  StopOnSignals();
  options.conversion.stop = [] { return stop_requested.load(); };
  return RunOnRanks([&options](const std::shared_ptr<Communicator>& world) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(const ConversionResult result, Convert(*world, options.conversion));
    if (world->rank() == 0) Print(options, result);
    return absl::OkStatus();
  });
}

}  // namespace

void AddConvertCommand(CLI::App& plait, Action& action) {
  auto options = std::make_shared<Options>();
  ConversionOptions& conversion = options->conversion;
  CLI::App* command = plait.add_subcommand(
      "convert", "Turns a Hugging Face model folder into a checkpoint, and back");
  command
      ->add_option("source", conversion.source,
                   "A folder with config.json and safetensors, a checkpoint or a run's folder")
      ->required();
  command->add_option("target", conversion.target, "Folder to make; it must not exist")->required();
  command
      ->add_option("--dtype", options->dtype,
                   "Of every tensor; without it each keeps its own (trained weights: BF16)")
      ->check(CLI::IsMember({"F32", "BF16", "F16"}));
  command
      ->add_option("--max-shard-bytes", conversion.max_shard_bytes,
                   "Largest safetensors file, in bytes or with a unit (500MB, 5GB)")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->check(AboveZero())
      ->capture_default_str();
  command->add_option("--report", conversion.report,
                      "File for the account of every tensor, as JSON");
  command->add_flag("--force", conversion.replace,
                    "Replaces a checkpoint or model folder that is there");
  command->add_flag("--json", options->json, "Answers with one JSON object");
  command->footer(
      "Examples: plait convert models/jamba checkpoints/jamba --report jamba.json\n"
      "          plait convert runs/first exported --dtype F32 --max-shard-bytes 2GB\n"
      "On several ranks, with the same tensors: tools/launch/mpirun.sh -n 4 plait convert ...");
  command->callback([options, &action] { action = [options] { return Run(*options); }; });
}

}  // namespace plait
