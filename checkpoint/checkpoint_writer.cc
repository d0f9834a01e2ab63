#include "checkpoint/checkpoint_writer.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/durable_file.h"
#include "base/exit_code.h"
#include "base/status_macros.h"
#include "checkpoint/checkpoint_assembly.h"
#include "checkpoint/pending_folder.h"
#include "checkpoint/retention.h"
#include "checkpoint/shard_file.h"
#include "checkpoint/shard_overlap.h"
#include "parallel/host_collectives.h"
#include "parallel/status_agreement.h"

namespace plait {
namespace {

// Collective: of all ranks' files together.
absl::StatusOr<int64_t> NeededBytes(Communicator& world, const CheckpointContent& content) {
  // Beside the elements: chunk indices, attributes and the manifest.
  constexpr int64_t kBytesPerTensor = 4096;
  int64_t needed = 1 << 16;
  if (world.rank() == 0) {
    needed += static_cast<int64_t>(content.description.recipe_text.size());
    for (const auto& [name, bytes] : content.attachments) {
      needed += static_cast<int64_t>(bytes.size());
    }
  }
  for (const NamedTensor& tensor : content.state.tensors) {
    needed +=
        static_cast<int64_t>(tensor.shard.bytes()) / std::max(1, tensor.replicas) + kBytesPerTensor;
  }
  PLAIT_RETURN_IF_ERROR(AllReduceOnHost(world, {&needed, DType::kI64, 1}, ReduceOperation::kSum));
  return needed;
}

// What is not a tensor: rank 0's is saved, so it must be everybody's.
std::string ScalarsText(const CheckpointContent& content) {
  return CheckpointManifestText({.description = content.description,
                                 .integers = content.state.integers,
                                 .texts = content.state.texts});
}

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  return error ? SystemError(path, "cannot be made", error.value()) : absl::OkStatus();
}

absl::Status CheckSpace(const std::string& folder, int64_t needed_bytes) {
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(folder, error);
  if (error || space.available >= static_cast<uint64_t>(needed_bytes)) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(folder, ": a checkpoint needs ", needed_bytes,
                                                   " bytes, the disk has ", space.available,
                                                   " free"));
}

absl::Status CheckState(const NamedState& state) {
  std::map<std::string, int> seen;
  for (const NamedTensor& tensor : state.tensors) {
    if (seen[tensor.name]++ > 0)
      return absl::AlreadyExistsError(absl::StrCat(tensor.name, ": the name occurs twice"));
    const int64_t expected = tensor.spec.elements.end - tensor.spec.elements.begin;
    if (tensor.shard.num_elements() != expected) {
      return absl::InternalError(absl::StrCat(tensor.name, ": its spec has ", expected,
                                              " elements, its shard ",
                                              tensor.shard.num_elements()));
    }
    if (!IsConsistent(tensor.spec)) {
      return absl::InternalError(absl::StrCat(tensor.name, ": its spec describes no shard of ",
                                              tensor.spec.logical_shape.ToString()));
    }
    if (tensor.replica < 0 || tensor.replica >= tensor.replicas) {
      return absl::InternalError(absl::StrCat(tensor.name, ": replica ", tensor.replica, " of ",
                                              tensor.replicas, " is none of them"));
    }
  }
  return absl::OkStatus();
}

// A disk that gives back other bytes, has become read-only or is gone: the run may go on later, or
// elsewhere, from its last checkpoint.
absl::Status OfDisk(absl::Status status) {
  const bool is_of_disk =
      absl::IsDataLoss(status) || absl::IsPermissionDenied(status) || absl::IsNotFound(status);
  return is_of_disk ? WithExitCode(std::move(status), ExitCode::kTryAgain) : status;
}

}  // namespace

absl::Status CheckpointWriter::RemoveLeftovers() {
  return AgreeOnStatus(
      world_, world_.rank() == 0 ? plait::RemoveLeftovers(checkpoints_folder_) : absl::OkStatus());
}

absl::Status CheckpointWriter::MakeTemporary(const std::string& folder, int64_t needed_bytes) {
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  PLAIT_RETURN_IF_ERROR(MakeFolder(folder));
  return CheckSpace(folder, needed_bytes);
}

absl::Status CheckpointWriter::WriteOwnFile(const std::string& folder,
                                            const CheckpointContent& content) {
  PLAIT_RETURN_IF_ERROR(CheckState(content.state));
  return WriteShardFile(absl::StrCat(folder, "/", ShardFileName(world_.rank())), content.state);
}

absl::Status CheckpointWriter::Publish(const std::string& temporary, const std::string& name,
                                       const CheckpointContent& content,
                                       std::vector<CheckpointFile> files) {
  PLAIT_RETURN_IF_ERROR(CompleteCheckpoint(temporary,
                                           {.description = content.description,
                                            .ranks = world_.size(),
                                            .integers = content.state.integers,
                                            .texts = content.state.texts,
                                            .files = std::move(files)},
                                           content.attachments));
  PLAIT_RETURN_IF_ERROR(ReplaceFolder(temporary, absl::StrCat(checkpoints_folder_, "/", name)));
  return RetainNewest(checkpoints_folder_, content.description.step, keep_);
}

absl::StatusOr<std::string> CheckpointWriter::Save(const CheckpointContent& content) {
  const std::string name = CheckpointName(content.description.step);
  const std::string temporary = absl::StrCat(checkpoints_folder_, "/tmp.", name);
  absl::Status status = SaveAs(name, temporary, content);
  if (status.ok()) return absl::StrCat(checkpoints_folder_, "/", name);
  // Agreed: no rank is writing any more.
  std::error_code ignored;
  if (world_.rank() == 0) std::filesystem::remove_all(temporary, ignored);
  return OfDisk(Annotate(status, absl::StrCat("checkpoint of step ", content.description.step)));
}

absl::Status CheckpointWriter::SaveAs(const std::string& name, const std::string& temporary,
                                      const CheckpointContent& content) {
  const bool is_first = world_.rank() == 0;
  PLAIT_RETURN_IF_ERROR(
      CheckSameText(world_, "what is saved beside the tensors", ScalarsText(content)));
  PLAIT_ASSIGN_OR_RETURN(const int64_t needed_bytes, NeededBytes(world_, content));
  PLAIT_RETURN_IF_ERROR(
      AgreeOnStatus(world_, is_first ? MakeTemporary(temporary, needed_bytes) : absl::OkStatus()));
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(world_, WriteOwnFile(temporary, content)));
  PLAIT_ASSIGN_OR_RETURN(std::vector<CheckpointFile> files, CollectRankFiles(world_, temporary));
  // Others must not go on before the checkpoint has its name.
  return AgreeOnStatus(
      world_, is_first ? Publish(temporary, name, content, std::move(files)) : absl::OkStatus());
}

}  // namespace plait
