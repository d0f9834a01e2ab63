// From a plait checkpoint to a Hugging Face model folder.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/durable_file.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "checkpoint/checkpoint_transfer.h"
#include "checkpoint/safetensors_transfer.h"
#include "data/prepared_manifest.h"
#include "data/tokenizer.h"
#include "parallel/status_agreement.h"
#include "recipes/hugging_face_config.h"
#include "recipes/recipe_defaults.h"
#include "recipes/recipe_loader.h"
#include "recipes/schema/recipe.pb.h"
#include "tools/conversion.h"
#include "tools/conversion_target.h"

namespace plait {
namespace {

constexpr char kConfigName[] = "config.json";
constexpr char kGenerationName[] = "generation_config.json";

// The files of the target beside the weights, bytes by name.
using SmallFiles = std::map<std::string, std::string>;

struct Export {
  recipe::v1::Model model;
  ConversionWork work;
  SafetensorsLayout layout;
  SmallFiles files;
};

// The first of the checkpoint's parts of each tensor stands for all.
std::vector<std::string> FilesOfSources(const CheckpointReader& checkpoint,
                                        const std::vector<SourceTensor>& sources) {
  std::vector<std::string> files;
  for (const SourceTensor& source : sources) {
    const auto& parts = checkpoint.tensors().at(absl::StrCat("parameters/", source.name));
    files.push_back(ShardFileName(parts.front().rank));
  }
  return files;
}

// What config.json says: the dtype that most bytes have.
std::string ConfigDType(const TensorPlan& plan) {
  std::map<DType, int64_t> bytes;
  for (const PlannedTensor& target : plan.targets) {
    bytes[target.dtype] += target.bytes();
  }
  const auto most = std::max_element(
      bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return most->first == DType::kBf16  ? "bfloat16"
         : most->first == DType::kF16 ? "float16"
                                      : "float32";
}

absl::StatusOr<SmallFiles> CarriedAttachments(const CheckpointReader& checkpoint) {
  SmallFiles files;
  for (const CheckpointFile& file : checkpoint.manifest().files) {
    const auto names = CarriedFiles();
    if (std::find(names.begin(), names.end(), file.name) == names.end()) continue;
    PLAIT_ASSIGN_OR_RETURN(files[file.name], checkpoint.Attachment(file.name));
  }
  return files;
}

// From the files that came with the weights, else from the tokenizer.
absl::StatusOr<HuggingFaceTokenIds> TokenIdsOf(const SmallFiles& files, const std::string& name) {
  if (const auto config = files.find(kConfigName); config != files.end()) {
    const auto generation = files.find(kGenerationName);
    return TokenIdsFromHuggingFace(config->second,
                                   generation == files.end() ? "" : generation->second, name);
  }
  HuggingFaceTokenIds ids;
  const absl::StatusOr<Tokenizer> tokenizer = Tokenizer::FromFiles(files, name, /*digest=*/"");
  if (absl::IsNotFound(tokenizer.status())) return ids;
  if (!tokenizer.ok()) return tokenizer.status();
  if (tokenizer->bos_id() >= 0) ids.bos = tokenizer->bos_id();
  if (tokenizer->eos_id() >= 0) ids.eos = {tokenizer->eos_id()};
  if (tokenizer->pad_id() >= 0) ids.pad = tokenizer->pad_id();
  return ids;
}

// Writes the configuration anew, for the weights as they are now; all else stays as it was.
absl::StatusOr<SmallFiles> FilesOfTarget(const CheckpointReader& checkpoint,
                                         const recipe::v1::Model& model, const TensorPlan& plan) {
  PLAIT_ASSIGN_OR_RETURN(SmallFiles files, CarriedAttachments(checkpoint));
  PLAIT_ASSIGN_OR_RETURN(const HuggingFaceTokenIds ids, TokenIdsOf(files, checkpoint.folder()));
  HuggingFaceConfigOptions config{.dtype = ConfigDType(plan), .token_ids = ids};
  config.source = files[kConfigName];
  PLAIT_ASSIGN_OR_RETURN(files[kConfigName], HuggingFaceConfigText(model, config));
  if (files.count(kGenerationName) == 0) {
    PLAIT_ASSIGN_OR_RETURN(files[kGenerationName], HuggingFaceGenerationText(ids, ""));
  }
  return files;
}

absl::StatusOr<Export> Prepare(const ConversionOptions& options, const CheckpointReader& checkpoint,
                               const std::vector<SourceTensor>& sources) {
  PLAIT_ASSIGN_OR_RETURN(const recipe::v1::Recipe recipe,
                         ParseRecipe(checkpoint.description().recipe_text, checkpoint.folder()));
  Export prepared{.model = ResolvedModel(recipe.model())};
  PLAIT_ASSIGN_OR_RETURN(const std::vector<LogicalTensor> wanted, LogicalTensorsOf(prepared.model));
  // Weights that were trained here are f32 beside bf16 ones that were computed with.
  TensorPlanOptions plan_options{.target = ExpertLayout::kPerExpert, .dtype = options.dtype};
  const bool is_converted = checkpoint.manifest().texts.count("conversion.source_format") > 0;
  if (!is_converted && !options.dtype) plan_options.dtype = DType::kBf16;
  absl::StatusOr<TensorPlan> plan = PlanTensors(wanted, sources, plan_options);
  if (!plan.ok()) {
    return WithExitCode(Annotate(plan.status(), checkpoint.folder()), ExitCode::kBadCheckpoint);
  }
  prepared.layout = SafetensorsLayout::For(*plan, options.max_shard_bytes);
  prepared.work = {sources, FilesOfSources(checkpoint, sources), *std::move(plan), {}};
  for (const size_t file : prepared.layout.file_of_target) {
    prepared.work.file_of_target.push_back(prepared.layout.files[file].name);
  }
  PLAIT_ASSIGN_OR_RETURN(prepared.files,
                         FilesOfTarget(checkpoint, prepared.model, prepared.work.plan));
  return prepared;
}

absl::StatusOr<CheckpointReader> OpenSource(Communicator& world, const std::string& path) {
  std::vector<RejectedCheckpoint> rejected;
  absl::StatusOr<CheckpointReader> reader = OpenCheckpointOrRun(world, path, &rejected);
  if (world.rank() == 0) {
    for (const RejectedCheckpoint& bad : rejected) {
      LogWarning(absl::StrCat("passed over: ", bad.reason));
    }
  }
  return reader;
}

absl::Status CompleteFolder(const std::string& folder, const SmallFiles& files) {
  for (const auto& [name, bytes] : files) {
    PLAIT_RETURN_IF_ERROR(WriteFileDurably(absl::StrCat(folder, "/", name), bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ConversionResult> ExportHuggingFace(Communicator& world,
                                                   const ConversionOptions& options) {
  PLAIT_ASSIGN_OR_RETURN(const CheckpointReader checkpoint, OpenSource(world, options.source));
  CheckpointTensorReader reader(checkpoint);
  const absl::StatusOr<Export> prepared = Prepare(options, checkpoint, reader.sources());
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(world, prepared.status()));
  const ConversionWork& work = prepared->work;
  const bool is_jamba = prepared->model.family() == recipe::v1::Model::JAMBA;
  ConversionResult result{.direction = "plait_to_hugging_face",
                          .model_type = is_jamba ? "jamba" : "llama",
                          .dtype = DTypeOfTargets(work.plan),
                          .source_tensors = static_cast<int64_t>(work.sources.size()),
                          .target_tensors = static_cast<int64_t>(work.plan.targets.size()),
                          .target_bytes = work.target_bytes()};
  int64_t needed_bytes = prepared->layout.file_bytes();
  for (const auto& [name, bytes] : prepared->files) {
    needed_bytes += static_cast<int64_t>(bytes.size());
  }
  TransferDigests digests;
  const auto fill = [&](const std::string& folder) -> absl::Status {
    PLAIT_RETURN_IF_ERROR(AgreeOnStatus(
        world, world.rank() == 0 ? prepared->layout.CreateFiles(folder) : absl::OkStatus()));
    SafetensorsFolderWriter writer(folder, work.plan, prepared->layout);
    PLAIT_ASSIGN_OR_RETURN(
        digests, TransferWithProgress(world, options, work, reader, writer, result.seconds));
    return AgreeOnStatus(world, writer.Finish());
  };
  const auto complete = [&](const std::string& folder) -> absl::Status {
    PLAIT_RETURN_IF_ERROR(CompleteFolder(folder, prepared->files));
    if (options.report.empty()) return absl::OkStatus();
    return WriteFileDurably(options.report, ConversionReport(options, result, work, digests));
  };
  PLAIT_RETURN_IF_ERROR(MakeConversionTarget(world, options, needed_bytes, fill, complete));
  return result;
}

}  // namespace plait
