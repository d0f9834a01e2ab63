// From a Hugging Face model folder to a plait checkpoint.
#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/digest.h"
#include "base/durable_file.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "checkpoint/checkpoint_assembly.h"
#include "checkpoint/checkpoint_transfer.h"
#include "checkpoint/safetensors_transfer.h"
#include "parallel/status_agreement.h"
#include "recipes/hugging_face_config.h"
#include "recipes/recipe_defaults.h"
#include "recipes/recipe_digest.h"
#include "recipes/schema/recipe.pb.h"
#include "tools/conversion.h"
#include "tools/conversion_target.h"
#include "trainer/model_runtime.h"

namespace plait {
namespace {

constexpr int64_t kMaxCarriedBytes = 256 << 20;
constexpr int64_t kBytesPerTensor = 4096;  // of a checkpoint's file, beside the elements
constexpr char kConfigName[] = "config.json";
constexpr char kGenerationName[] = "generation_config.json";

struct Import {
  std::map<std::string, std::string> carried;
  recipe::v1::Recipe recipe;
  SafetensorsFolder folder;
  ConversionWork work;
};

absl::StatusOr<std::map<std::string, std::string>> ReadCarriedFiles(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const char* name : CarriedFiles()) {
    const std::string path = absl::StrCat(folder, "/", name);
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) continue;
    PLAIT_ASSIGN_OR_RETURN(files[name], ReadWholeFile(path, kMaxCarriedBytes));
  }
  return files;
}

absl::StatusOr<recipe::v1::Recipe> RecipeOf(const ConversionOptions& options,
                                            const std::string& config, bool warn) {
  recipe::v1::Recipe recipe;
  recipe.set_schema_version(1);
  std::filesystem::path path(options.source);
  if (!path.has_filename()) path = path.parent_path();
  recipe.set_name(path.filename().string());
  std::vector<std::string> warnings;
  PLAIT_ASSIGN_OR_RETURN(*recipe.mutable_model(),
                         ModelFromHuggingFaceConfig(
                             config, absl::StrCat(options.source, "/", kConfigName), &warnings));
  *recipe.mutable_model() = ResolvedModel(recipe.model());
  if (warn) {
    for (const std::string& warning : warnings) LogWarning(warning);
  }
  return recipe;
}

std::string CarriedOrNone(const std::map<std::string, std::string>& carried, const char* name) {
  const auto found = carried.find(name);
  return found == carried.end() ? "" : found->second;
}

// What the source holds beside weights and carried files, by name.
std::vector<std::string> LeftBehind(const std::string& source, const Import& import) {
  std::set<std::string> taken(import.work.file_of_source.begin(), import.work.file_of_source.end());
  for (const auto& [name, bytes] : import.carried) taken.insert(name);
  taken.insert(kSafetensorsIndexName);
  std::set<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator entries(source, error);
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    const std::string name = entries->path().filename().string();
    if (name.front() != '.' && taken.count(name) == 0) names.insert(name);
  }
  return {names.begin(), names.end()};
}

absl::Status Bad(const absl::Status& status) {
  return WithExitCode(status, ExitCode::kBadCheckpoint);
}

// This rank's view of the source: the same on all that see the same folder.
absl::StatusOr<Import> Prepare(const ConversionOptions& options, bool warn) {
  PLAIT_ASSIGN_OR_RETURN(auto carried, ReadCarriedFiles(options.source));
  PLAIT_ASSIGN_OR_RETURN(recipe::v1::Recipe recipe, RecipeOf(options, carried[kConfigName], warn));
  PLAIT_ASSIGN_OR_RETURN(const std::vector<LogicalTensor> wanted, LogicalTensorsOf(recipe.model()));
  absl::StatusOr<SafetensorsFolder> folder = SafetensorsFolder::Open(options.source);
  if (!folder.ok()) return Bad(folder.status());
  // What the way back, and plait generate, read.
  PLAIT_RETURN_IF_ERROR(TokenIdsFromHuggingFace(carried[kConfigName],
                                                CarriedOrNone(carried, kGenerationName),
                                                options.source)
                            .status());
  Import import{std::move(carried), std::move(recipe), *std::move(folder), {}};
  import.work.sources = SafetensorsReader::Sources(import.folder);
  for (const SafetensorsFolder::Entry& entry : import.folder.tensors()) {
    import.work.file_of_source.push_back(entry.file_name);
  }
  absl::StatusOr<TensorPlan> plan = PlanTensors(
      wanted, import.work.sources, {.target = ExpertLayout::kFused, .dtype = options.dtype});
  if (!plan.ok()) return Bad(Annotate(plan.status(), options.source));
  import.work.plan = *std::move(plan);
  // plait generate computes as precisely as the weights are: in bf16 where they all are.
  if (DTypeOfTargets(import.work.plan) != Name(SafetensorsDType::kBf16)) {
    import.recipe.mutable_trainer()->set_precision(recipe::v1::Trainer::F32);
  }
  return import;
}

CheckpointManifest ManifestOf(const Import& import, const ConversionResult& result,
                              std::vector<CheckpointFile> files) {
  CheckpointManifest manifest;
  manifest.description = {.recipe_text = RecipeText(import.recipe),
                          .recipe_digest = RecipeDigest(import.recipe),
                          .model_digest = ModelDigest(import.recipe)};
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    const auto found = import.carried.find(name);
    if (found == import.carried.end()) continue;
    manifest.description.tokenizer_digest = DigestOf(found->second.data(), found->second.size());
    break;
  }
  manifest.ranks = static_cast<int64_t>(files.size());
  manifest.texts = {{"conversion.source_format", "hugging_face"},
                    {"conversion.model_type", result.model_type},
                    {"conversion.dtype", result.dtype}};
  manifest.files = std::move(files);
  return manifest;
}

int64_t BytesOfRank(const TensorPlan& plan, const TransferDeal& deal, int rank) {
  int64_t bytes = 0;
  for (size_t i = 0; i < plan.targets.size(); ++i) {
    if (deal.rank_of_target[i] == rank) bytes += plan.targets[i].bytes();
  }
  return bytes;
}

// Collective: every rank's file, in rank order.
absl::StatusOr<std::vector<CheckpointFile>> WriteFiles(Communicator& world,
                                                       const ConversionOptions& options,
                                                       const Import& import,
                                                       const TransferDeal& deal,
                                                       const std::string& folder, double& seconds,
                                                       TransferDigests& digests) {
  const TensorPlan& plan = import.work.plan;
  absl::StatusOr<CheckpointTensorWriter> writer =
      CheckpointTensorWriter::Create(absl::StrCat(folder, "/", ShardFileName(world.rank())),
                                     BytesOfRank(plan, deal, world.rank()), plan);
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(world, writer.status()));
  SafetensorsReader reader(import.folder);
  PLAIT_ASSIGN_OR_RETURN(
      digests, TransferWithProgress(world, options, import.work, reader, *writer, seconds));
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(world, writer->Close()));
  return CollectRankFiles(world, folder, writer->TakeDigest());
}

}  // namespace

absl::StatusOr<ConversionResult> ImportHuggingFace(Communicator& world,
                                                   const ConversionOptions& options) {
  absl::StatusOr<Import> import = Prepare(options, world.rank() == 0);
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(world, import.status()));
  PLAIT_RETURN_IF_ERROR(CheckSameText(world, absl::StrCat(options.source, "/", kConfigName),
                                      import->carried[kConfigName]));
  ConversionWork& work = import->work;
  const TransferDeal deal = DealTransfer(work.plan, work.sources, world.size());
  for (const int rank : deal.rank_of_target) work.file_of_target.push_back(ShardFileName(rank));
  const bool is_jamba = import->recipe.model().family() == recipe::v1::Model::JAMBA;
  ConversionResult result{.direction = "hugging_face_to_plait",
                          .model_type = is_jamba ? "jamba" : "llama",
                          .dtype = DTypeOfTargets(work.plan),
                          .source_tensors = static_cast<int64_t>(work.sources.size()),
                          .target_tensors = static_cast<int64_t>(work.plan.targets.size()),
                          .target_bytes = work.target_bytes()};
  int64_t needed_bytes = result.target_bytes + result.target_tensors * kBytesPerTensor;
  for (const auto& [name, bytes] : import->carried) {
    needed_bytes += static_cast<int64_t>(bytes.size());
  }
  TransferDigests digests;
  std::vector<CheckpointFile> files;
  const auto fill = [&](const std::string& folder) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(
        files, WriteFiles(world, options, *import, deal, folder, result.seconds, digests));
    return absl::OkStatus();
  };
  const auto complete = [&](const std::string& folder) -> absl::Status {
    PLAIT_RETURN_IF_ERROR(
        CompleteCheckpoint(folder, ManifestOf(*import, result, std::move(files)), import->carried));
    if (options.report.empty()) return absl::OkStatus();
    return WriteFileDurably(options.report, ConversionReport(options, result, work, digests));
  };
  PLAIT_RETURN_IF_ERROR(MakeConversionTarget(world, options, needed_bytes, fill, complete));
  const std::vector<std::string> left = LeftBehind(options.source, *import);
  if (world.rank() == 0 && !left.empty()) {
    LogInfo(absl::StrCat(options.source,
                         ": stay there and do not travel: ", absl::StrJoin(left, ", ")));
  }
  return result;
}

}  // namespace plait
