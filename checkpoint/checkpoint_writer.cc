#include "checkpoint/checkpoint_writer.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/durable_file.h"
#include "base/status_macros.h"
#include "base/tensor.h"
#include "checkpoint/retention.h"
#include "checkpoint/shard_file.h"

namespace plait {
namespace {

// What a rank tells the others about its file: whether it was written, its bytes, its digest.
constexpr int64_t kReportWords = 4;
constexpr int64_t kDigestBytes = 16;

void Pack(const absl::Status& status, const CheckpointFile& file, int64_t* words) {
  words[0] = static_cast<int64_t>(status.code());
  words[1] = file.bytes;
  const std::string digest = absl::HexStringToBytes(file.digest);
  words[2] = words[3] = 0;
  if (digest.size() == kDigestBytes) std::memcpy(words + 2, digest.data(), kDigestBytes);
}

// Every rank's file, in rank order, or the failure of the first rank that has one.
absl::StatusOr<std::vector<CheckpointFile>> GatherFiles(Communicator& world,
                                                        const absl::Status& status,
                                                        const CheckpointFile& file) {
  Tensor own = Tensor::OnHost(DType::kI64, {kReportWords});
  Tensor all = Tensor::OnHost(DType::kI64, {kReportWords * world.size()});
  Pack(status, file, own.data<int64_t>());
  Stream stream;
  PLAIT_ASSIGN_OR_RETURN(const Event done, world.AllGather(stream, own.vector(), all.vector()));
  PLAIT_RETURN_IF_ERROR(done.Synchronize());
  PLAIT_RETURN_IF_ERROR(status);
  std::vector<CheckpointFile> files;
  for (int rank = 0; rank < world.size(); ++rank) {
    const int64_t* words = all.data<int64_t>() + rank * kReportWords;
    if (words[0] != 0) {
      return absl::Status(static_cast<absl::StatusCode>(words[0]),
                          absl::StrCat("rank ", rank, " could not write its part"));
    }
    files.push_back({ShardFileName(rank), words[1],
                     absl::BytesToHexString(absl::string_view(
                         reinterpret_cast<const char*>(words + 2), kDigestBytes))});
  }
  return files;
}

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  return error ? SystemError(path, "cannot be made", error.value()) : absl::OkStatus();
}

absl::Status CheckSpace(const std::string& folder, const CheckpointContent& content) {
  // Beside the elements: chunk indices, attributes and the manifest.
  constexpr uint64_t kBytesPerTensor = 4096;
  uint64_t needed = content.description.recipe_text.size() + (1 << 16);
  for (const NamedTensor& tensor : content.state.tensors) {
    needed += tensor.shard.bytes() + kBytesPerTensor;
  }
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(folder, error);
  if (error || space.available >= needed) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      folder, ": a checkpoint needs ", needed, " bytes, the disk has ", space.available, " free"));
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
  }
  return absl::OkStatus();
}

// Attachments are written as they are; what is on disk is compared too.
absl::StatusOr<CheckpointFile> WriteAttachment(const std::string& folder, const std::string& name,
                                               const std::string& bytes) {
  const std::string path = absl::StrCat(folder, "/", name);
  PLAIT_RETURN_IF_ERROR(WriteFileDurably(path, bytes));
  const std::string digest = DigestOf(bytes.data(), bytes.size());
  PLAIT_ASSIGN_OR_RETURN(const std::string found, DigestOfFile(path));
  if (found != digest) {
    return absl::DataLossError(
        absl::StrCat(path, ": wrote content with digest ", digest, ", read ", found, " back"));
  }
  return CheckpointFile{name, static_cast<int64_t>(bytes.size()), digest};
}

}  // namespace

absl::Status CheckpointWriter::RemoveLeftovers() {
  if (world_.rank() == 0) PLAIT_RETURN_IF_ERROR(plait::RemoveLeftovers(checkpoints_folder_));
  return world_.Barrier();
}

absl::Status CheckpointWriter::WriteOwnFile(const std::string& folder,
                                            const CheckpointContent& content,
                                            CheckpointFile& file) {
  PLAIT_RETURN_IF_ERROR(CheckState(content.state));
  PLAIT_RETURN_IF_ERROR(CheckSpace(folder, content));
  const std::string path = absl::StrCat(folder, "/", ShardFileName(world_.rank()));
  PLAIT_RETURN_IF_ERROR(WriteShardFile(path, content.state));
  PLAIT_ASSIGN_OR_RETURN(file.digest, DigestOfFile(path));
  file.bytes = static_cast<int64_t>(std::filesystem::file_size(path));
  return absl::OkStatus();
}

absl::Status CheckpointWriter::Publish(const std::string& temporary, const std::string& name,
                                       const CheckpointContent& content,
                                       std::vector<CheckpointFile> files) {
  for (const auto& [attachment, bytes] : content.attachments) {
    PLAIT_ASSIGN_OR_RETURN(CheckpointFile file, WriteAttachment(temporary, attachment, bytes));
    files.push_back(std::move(file));
  }
  const std::string text = CheckpointManifestText({.description = content.description,
                                                   .ranks = world_.size(),
                                                   .integers = content.state.integers,
                                                   .texts = content.state.texts,
                                                   .files = std::move(files)});
  const std::string manifest = absl::StrCat(temporary, "/", kCheckpointManifestName);
  PLAIT_RETURN_IF_ERROR(WriteFileDurably(manifest, text));
  PLAIT_RETURN_IF_ERROR(SyncFolder(temporary));
  const std::string folder = absl::StrCat(checkpoints_folder_, "/", name);
  if (std::filesystem::exists(folder)) {
    PLAIT_RETURN_IF_ERROR(RetireCheckpoint(checkpoints_folder_, content.description.step));
  }
  PLAIT_RETURN_IF_ERROR(RenameDurably(temporary, folder));
  return RetainNewest(checkpoints_folder_, keep_);
}

absl::StatusOr<std::string> CheckpointWriter::Save(const CheckpointContent& content) {
  const std::string name = CheckpointName(content.description.step);
  const std::string temporary = absl::StrCat(checkpoints_folder_, "/tmp.", name);
  std::error_code ignored;
  absl::Status prepared;
  if (world_.rank() == 0) {
    std::filesystem::remove_all(temporary, ignored);
    prepared = MakeFolder(temporary);
  }
  PLAIT_RETURN_IF_ERROR(world_.Barrier());

  CheckpointFile file;
  absl::Status written = prepared.ok() ? WriteOwnFile(temporary, content, file) : prepared;
  absl::StatusOr<std::vector<CheckpointFile>> files = GatherFiles(world_, written, file);
  absl::Status status = files.status();
  if (status.ok() && world_.rank() == 0) {
    status = Publish(temporary, name, content, *std::move(files));
  }
  // Others must not go on before the checkpoint has its name.
  PLAIT_RETURN_IF_ERROR(world_.Barrier());
  if (!status.ok()) {
    if (world_.rank() == 0) std::filesystem::remove_all(temporary, ignored);
    return Annotate(status, absl::StrCat("checkpoint of step ", content.description.step));
  }
  return absl::StrCat(checkpoints_folder_, "/", name);
}

}  // namespace plait
