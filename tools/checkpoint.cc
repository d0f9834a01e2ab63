// plait checkpoint list | verify | show
#include <CLI/CLI.hpp>
#include <cinttypes>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/exit_code.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/retention.h"
#include "tools/plait.h"

namespace plait {
namespace {

struct Options {
  std::string path;
  bool json = false;
  bool recipe = false;  // of show
};

void Print(const nlohmann::ordered_json& answer) { std::printf("%s\n", JsonText(answer).c_str()); }

void WarnOfRejected(const std::vector<RejectedCheckpoint>& rejected) {
  for (const RejectedCheckpoint& checkpoint : rejected)
    std::fprintf(stderr, "plait: passed over: %s\n", checkpoint.reason.c_str());
}

std::string Ranks(int64_t ranks) { return absl::StrCat(ranks, ranks == 1 ? " rank" : " ranks"); }

absl::Status List(const Options& options) {
  const std::string inner = absl::StrCat(options.path, "/checkpoints");
  std::error_code ignored;
  const std::string folder = std::filesystem::is_directory(inner, ignored) ? inner : options.path;
  if (!std::filesystem::is_directory(folder, ignored)) {
    return WithExitCode(absl::NotFoundError(absl::StrCat(folder, ": no such folder")),
                        ExitCode::kBadCheckpoint);
  }
  PLAIT_ASSIGN_OR_RETURN(const std::vector<CheckpointEntry> entries, ListCheckpoints(folder));
  nlohmann::ordered_json answer = {{"checkpoints", nlohmann::ordered_json::array()}};
  for (const CheckpointEntry& entry : entries) {
    const auto reader = CheckpointReader::Open(entry.folder);
    const std::string problem(reader.status().message());
    const int64_t ranks = reader.ok() ? reader->manifest().ranks : 0;
    if (!options.json) {
      std::printf(
          "%10" PRId64 "  %s  %s\n", entry.step, entry.folder.c_str(),
          problem.empty() ? absl::StrCat("verified, ", Ranks(ranks)).c_str() : problem.c_str());
    }
    answer["checkpoints"].push_back({{"step", entry.step},
                                     {"folder", entry.folder},
                                     {"ranks", ranks},
                                     {"verified", reader.ok()},
                                     {"problem", problem}});
  }
  if (options.json) Print(answer);
  return absl::OkStatus();
}

// Unlike list, verify reads every shard too, and fails if anything is wrong.
// Of a run also what is older than the newest one that verifies.
void VerifyOlder(const CheckpointReader& newest, std::vector<RejectedCheckpoint>& rejected) {
  const auto entries =
      ListCheckpoints(std::filesystem::path(newest.folder()).parent_path().string());
  if (!entries.ok()) return;
  for (const CheckpointEntry& entry : *entries) {
    if (entry.step >= newest.description().step) continue;
    const auto reader = CheckpointReader::Open(entry.folder);
    const absl::Status status = reader.ok() ? reader->VerifyTensors() : reader.status();
    if (status.ok()) continue;
    rejected.push_back({entry.folder, std::string(status.message())});
    std::fprintf(stderr, "plait: damaged: %s\n", rejected.back().reason.c_str());
  }
}

absl::Status Verify(const Options& options) {
  std::vector<RejectedCheckpoint> rejected;
  absl::StatusOr<CheckpointReader> opened = OpenCheckpointOrRun(options.path, &rejected);
  WarnOfRejected(rejected);
  PLAIT_ASSIGN_OR_RETURN(const CheckpointReader reader, std::move(opened));
  PLAIT_RETURN_IF_ERROR(reader.VerifyTensors());
  std::error_code ignored;
  if (!std::filesystem::equivalent(reader.folder(), options.path, ignored)) {
    VerifyOlder(reader, rejected);
  }
  if (!rejected.empty()) {
    return WithExitCode(absl::DataLossError(rejected[0].reason), ExitCode::kBadCheckpoint);
  }
  const int64_t ranks = reader.manifest().ranks;
  if (options.json) {
    Print({{"folder", reader.folder()},
           {"step", reader.description().step},
           {"ranks", ranks},
           {"verified", true},
           {"tensors", reader.tensors().size()}});
  } else {
    std::printf("%s: step %" PRId64 ", %zu tensors of %s verified\n", reader.folder().c_str(),
                reader.description().step, reader.tensors().size(), Ranks(ranks).c_str());
  }
  return absl::OkStatus();
}

nlohmann::ordered_json Pairs(const std::vector<ShardSpec::Range>& ranges) {
  nlohmann::ordered_json answer = nlohmann::ordered_json::array();
  for (const ShardSpec::Range& range : ranges) answer.push_back({range.begin, range.end});
  return answer;
}

// One logical tensor and where its elements are.
nlohmann::ordered_json Describe(const std::string& name, const CheckpointReader::Parts& parts) {
  const StoredTensor& first = *parts.front().stored;
  const auto sizes = first.spec.logical_shape.sizes();
  nlohmann::ordered_json answer = {{"name", name},
                                   {"dtype", Name(first.dtype)},
                                   {"shape", std::vector<int64_t>(sizes.begin(), sizes.end())},
                                   {"shards", nlohmann::ordered_json::array()}};
  for (const auto& [rank, stored] : parts) {
    answer["shards"].push_back(
        {{"rank", rank},
         {"dim0_ranges", Pairs(stored->spec.dim0_ranges)},
         {"other_ranges", Pairs(stored->spec.other_ranges)},
         {"elements", {stored->spec.elements.begin, stored->spec.elements.end}},
         {"digest", stored->digest}});
  }
  return answer;
}

// "[0 to 64 and 128 to 192, 0 to 32]": the part of the logical tensor that its elements are of.
std::string BoxText(const ShardSpec& spec) {
  const auto text = [](std::string* out, const ShardSpec::Range& range) {
    absl::StrAppend(out, range.begin, " to ", range.end);
  };
  std::string box = absl::StrJoin(spec.dim0_ranges, " and ", text);
  for (const ShardSpec::Range& range : spec.other_ranges) {
    absl::StrAppend(&box, ", ");
    text(&box, range);
  }
  return absl::StrCat("[", box, "]");
}

// One line for a tensor that one rank holds; else one more for each shard.
void PrintTensor(const std::string& name, const CheckpointReader::Parts& parts) {
  const StoredTensor& first = *parts.front().stored;
  const std::string shape = first.spec.logical_shape.ToString();
  if (parts.size() == 1) {
    std::printf("%s  %s %s %s, rank %" PRId64 "\n", first.digest.c_str(), Name(first.dtype),
                shape.c_str(), name.c_str(), parts[0].rank);
    return;
  }
  std::printf("%-32s  %s %s %s\n", "", Name(first.dtype), shape.c_str(), name.c_str());
  for (const auto& [rank, stored] : parts) {
    const ShardSpec& spec = stored->spec;
    std::printf("%s    rank %" PRId64 ": elements %" PRId64 " to %" PRId64, stored->digest.c_str(),
                rank, spec.elements.begin, spec.elements.end);
    if (!(spec.box_shape() == spec.logical_shape)) std::printf(" of %s", BoxText(spec).c_str());
    std::printf("\n");
  }
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
    // The digest is that of the digests of segments of so many bytes.
    if (file.segment_bytes > 0) answer["files"].back()["segment_bytes"] = file.segment_bytes;
  }
  for (const auto& [name, parts] : reader.tensors()) {
    answer["tensors"].push_back(Describe(name, parts));
  }
  answer["recipe"] = description.recipe_text;
  return answer;
}

absl::Status Show(const Options& options) {
  std::vector<RejectedCheckpoint> rejected;
  absl::StatusOr<CheckpointReader> reader = OpenCheckpointOrRun(options.path, &rejected);
  WarnOfRejected(rejected);
  PLAIT_RETURN_IF_ERROR(reader.status());
  const CheckpointDescription& description = reader->description();
  if (options.recipe) {
    std::printf("%s", description.recipe_text.c_str());
    return absl::OkStatus();
  }
  if (options.json) {
    Print(Describe(*reader));
    return absl::OkStatus();
  }
  const auto or_none = [](const std::string& digest) {
    return digest.empty() ? "none" : digest.c_str();
  };
  std::printf("%s\nstep %" PRId64 ", next stage %" PRId64
              ", %s\nrecipe %s, model %s, tokenizer %s\n",
              reader->folder().c_str(), description.step, description.stage,
              Ranks(reader->manifest().ranks).c_str(), or_none(description.recipe_digest),
              or_none(description.model_digest), or_none(description.tokenizer_digest));
  for (const auto& [name, value] : reader->manifest().texts)
    std::printf("%s = %s\n", name.c_str(), absl::Utf8SafeCEscape(value).c_str());
  for (const auto& [name, value] : reader->manifest().integers)
    std::printf("%s = %" PRId64 "\n", name.c_str(), value);
  for (const CheckpointFile& file : reader->manifest().files)
    std::printf("%s  %s, %" PRId64 " bytes\n", file.digest.c_str(), file.name.c_str(), file.bytes);
  for (const auto& [name, parts] : reader->tensors()) PrintTensor(name, parts);
  return absl::OkStatus();
}

void AddVerb(CLI::App& command, const std::string& name, const std::string& description,
             absl::Status (*run)(const Options&), Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = command.add_subcommand(name, description);
  verb->add_option("path", options->path, "A checkpoint, or the folder of a run")->required();
  verb->add_flag("--json", options->json, "Answers with one JSON object");
  if (name == "show") {
    verb->add_flag("--recipe", options->recipe,
                   "Prints its recipe and nothing else: to train from it, put stages below")
        ->excludes("--json");
  }
  verb->footer("Example: plait checkpoint " + name + " runs/demo/run");
  verb->callback([options, run, &action] { action = [options, run] { return run(*options); }; });
}

}  // namespace

void AddCheckpointCommand(CLI::App& plait, Action& action) {
  CLI::App* command = plait.add_subcommand("checkpoint", "Lists, verifies or shows checkpoints");
  command->require_subcommand(1);
  command->footer("Example: plait checkpoint list runs/demo/run");
  AddVerb(*command, "list", "Every checkpoint of a run and whether its files verify", List, action);
  AddVerb(*command, "verify",
          "Reads everything back, of a run every checkpoint; exit code 3 where anything is wrong",
          Verify, action);
  AddVerb(*command, "show", "What a checkpoint contains", Show, action);
}

}  // namespace plait
