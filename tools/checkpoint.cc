// plait checkpoint list | verify | show
#include <CLI/CLI.hpp>
#include <cinttypes>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/exit_code.h"
#include "base/status_macros.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/retention.h"
#include "tools/plait.h"

namespace plait {
namespace {

struct Options {
  std::string path;
  bool json = false;
};

void Print(const nlohmann::ordered_json& answer) { std::printf("%s\n", answer.dump().c_str()); }

void WarnOfRejected(const std::vector<RejectedCheckpoint>& rejected) {
  for (const RejectedCheckpoint& checkpoint : rejected)
    std::fprintf(stderr, "plait: passed over: %s\n", checkpoint.reason.c_str());
}

absl::Status List(const Options& options) {
  const std::string inner = absl::StrCat(options.path, "/checkpoints");
  const std::string folder = std::filesystem::is_directory(inner) ? inner : options.path;
  if (!std::filesystem::is_directory(folder)) {
    return WithExitCode(absl::NotFoundError(absl::StrCat(folder, ": no such folder")),
                        ExitCode::kBadCheckpoint);
  }
  PLAIT_ASSIGN_OR_RETURN(const std::vector<CheckpointEntry> entries, ListCheckpoints(folder));
  nlohmann::ordered_json answer = {{"checkpoints", nlohmann::ordered_json::array()}};
  for (const CheckpointEntry& entry : entries) {
    const auto reader = CheckpointReader::Open(entry.folder);
    const std::string problem(reader.status().message());
    if (!options.json) {
      std::printf("%10" PRId64 "  %s  %s\n", entry.step, entry.folder.c_str(),
                  problem.empty() ? "verified" : problem.c_str());
    }
    answer["checkpoints"].push_back({{"step", entry.step},
                                     {"folder", entry.folder},
                                     {"verified", reader.ok()},
                                     {"problem", problem}});
  }
  if (options.json) Print(answer);
  return absl::OkStatus();
}

// Unlike list, verify reads every shard too, and fails if anything is wrong.
absl::Status Verify(const Options& options) {
  std::vector<RejectedCheckpoint> rejected;
  PLAIT_ASSIGN_OR_RETURN(const CheckpointReader reader,
                         OpenCheckpointOrRun(options.path, &rejected));
  PLAIT_RETURN_IF_ERROR(reader.VerifyTensors());
  if (!rejected.empty()) {
    return WithExitCode(absl::DataLossError(rejected[0].reason), ExitCode::kBadCheckpoint);
  }
  if (options.json) {
    Print({{"folder", reader.folder()},
           {"step", reader.description().step},
           {"verified", true},
           {"tensors", reader.Tensors().size()}});
  } else {
    std::printf("%s: step %" PRId64 ", %zu tensors verified\n", reader.folder().c_str(),
                reader.description().step, reader.Tensors().size());
  }
  return absl::OkStatus();
}

nlohmann::ordered_json Describe(const CheckpointReader& reader) {
  const CheckpointManifest& manifest = reader.manifest();
  const CheckpointDescription& description = manifest.description;
  nlohmann::ordered_json answer = {{"folder", reader.folder()},
                                   {"step", description.step},
                                   {"stage", description.stage},
                                   {"ranks", manifest.ranks},
                                   {"recipe_digest", description.recipe_digest},
                                   {"model_digest", description.model_digest},
                                   {"tokenizer_digest", description.tokenizer_digest},
                                   {"integers", manifest.integers},
                                   {"texts", manifest.texts},
                                   {"files", nlohmann::ordered_json::array()},
                                   {"tensors", nlohmann::ordered_json::array()}};
  for (const CheckpointFile& file : manifest.files) {
    answer["files"].push_back(
        {{"name", file.name}, {"bytes", file.bytes}, {"digest", file.digest}});
  }
  for (const StoredTensor& tensor : reader.Tensors()) {
    const auto sizes = tensor.spec.logical_shape.sizes();
    answer["tensors"].push_back({{"name", tensor.name},
                                 {"dtype", Name(tensor.dtype)},
                                 {"shape", std::vector<int64_t>(sizes.begin(), sizes.end())},
                                 {"elements", tensor.num_elements},
                                 {"digest", tensor.digest}});
  }
  answer["recipe"] = description.recipe_text;
  return answer;
}

absl::Status Show(const Options& options) {
  std::vector<RejectedCheckpoint> rejected;
  absl::StatusOr<CheckpointReader> reader = OpenCheckpointOrRun(options.path, &rejected);
  WarnOfRejected(rejected);
  PLAIT_RETURN_IF_ERROR(reader.status());
  if (options.json) {
    Print(Describe(*reader));
    return absl::OkStatus();
  }
  const CheckpointDescription& description = reader->description();
  std::printf("%s\nstep %" PRId64 ", next stage %" PRId64 ", %" PRId64
              " ranks\nrecipe %s, model %s, tokenizer %s\n",
              reader->folder().c_str(), description.step, description.stage,
              reader->manifest().ranks, description.recipe_digest.c_str(),
              description.model_digest.c_str(), description.tokenizer_digest.c_str());
  for (const auto& [name, value] : reader->manifest().integers)
    std::printf("%s = %" PRId64 "\n", name.c_str(), value);
  for (const StoredTensor& tensor : reader->Tensors()) {
    std::printf("%s  %s %s %s\n", tensor.digest.c_str(), Name(tensor.dtype),
                tensor.spec.logical_shape.ToString().c_str(), tensor.name.c_str());
  }
  return absl::OkStatus();
}

void AddVerb(CLI::App& command, const std::string& name, const std::string& description,
             absl::Status (*run)(const Options&), Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = command.add_subcommand(name, description);
  verb->add_option("path", options->path, "A checkpoint, or the folder of a run")->required();
  verb->add_flag("--json", options->json, "Answers with one JSON object");
  verb->footer("Example: plait checkpoint " + name + " runs/demo/run");
  verb->callback([options, run, &action] { action = [options, run] { return run(*options); }; });
}

}  // namespace

void AddCheckpointCommand(CLI::App& plait, Action& action) {
  CLI::App* command = plait.add_subcommand("checkpoint", "Lists, verifies or shows checkpoints");
  command->require_subcommand(1);
  command->footer("Example: plait checkpoint list runs/demo/run");
  AddVerb(*command, "list", "Every checkpoint of a run and whether its files verify", List, action);
  AddVerb(*command, "verify", "Reads everything back; exit code 3 where anything is wrong", Verify,
          action);
  AddVerb(*command, "show", "What a checkpoint contains", Show, action);
}

}  // namespace plait
