#include "checkpoint/checkpoint_reader.h"

#include <filesystem>
#include <map>
#include <set>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/durable_file.h"
#include "base/exit_code.h"
#include "base/status_macros.h"
#include "checkpoint/retention.h"

namespace plait {
namespace {

absl::Status Bad(absl::Status status) {
  return WithExitCode(std::move(status), ExitCode::kBadCheckpoint);
}

// Length first: it tells a file cut short from a damaged one.
absl::Status CheckFile(const std::string& folder, const CheckpointFile& file) {
  const std::string path = absl::StrCat(folder, "/", file.name);
  std::error_code error;
  const uintmax_t bytes = std::filesystem::file_size(path, error);
  if (error) return absl::NotFoundError(absl::StrCat(path, ": ", error.message()));
  if (bytes != static_cast<uintmax_t>(file.bytes)) {
    return absl::DataLossError(
        absl::StrCat(path, ": expected ", file.bytes, " bytes, found ", bytes));
  }
  PLAIT_ASSIGN_OR_RETURN(const std::string digest, DigestOfFile(path));
  if (digest == file.digest) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(path, ": damaged: expected digest ", file.digest, ", found ", digest));
}

absl::Status CheckSame(const std::string& folder, const NamedTensor& wanted,
                       const StoredTensor& stored) {
  const std::string where = absl::StrCat(folder, ": ", wanted.name);
  if (!(stored.spec.logical_shape == wanted.spec.logical_shape)) {
    return absl::FailedPreconditionError(
        absl::StrCat(where, ": expected shape ", wanted.spec.logical_shape.ToString(), ", found ",
                     stored.spec.logical_shape.ToString()));
  }
  if (stored.dtype != wanted.shard.dtype()) {
    return absl::FailedPreconditionError(absl::StrCat(
        where, ": expected ", Name(wanted.shard.dtype()), ", found ", Name(stored.dtype)));
  }
  if (!(stored.spec == wanted.spec)) {
    return absl::FailedPreconditionError(absl::StrCat(
        where, ": was saved by another layout of ranks; run with the layout of the checkpoint"));
  }
  return absl::OkStatus();
}

// Both directions; `kind` names what the maps hold.
template <class T>
absl::Status CheckSameKeys(const std::string& folder, const std::string& kind,
                           UnaskedTensors unasked, const std::map<std::string, T>& wanted,
                           const std::map<std::string, T>& stored) {
  for (const auto& [name, value] : wanted) {
    if (stored.count(name) == 0)
      return absl::FailedPreconditionError(
          absl::StrCat(folder, ": has no ", kind, " '", name, "', which this run needs"));
  }
  if (unasked == UnaskedTensors::kIgnore) return absl::OkStatus();
  for (const auto& [name, value] : stored) {
    if (wanted.count(name) == 0)
      return absl::FailedPreconditionError(
          absl::StrCat(folder, ": has the ", kind, " '", name, "', which this run does not have"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CheckpointReader> CheckpointReader::Open(const std::string& folder) {
  CheckpointReader reader;
  reader.folder_ = folder;
  absl::StatusOr<CheckpointManifest> manifest = ReadCheckpointManifest(folder);
  if (!manifest.ok()) return Bad(manifest.status());
  reader.manifest_ = *std::move(manifest);
  if (absl::Status status = reader.CheckFiles(); !status.ok()) return Bad(status);
  for (int64_t rank = 0; rank < reader.manifest_.ranks; ++rank) {
    absl::StatusOr<ShardFile> file =
        ShardFile::Open(absl::StrCat(folder, "/", ShardFileName(rank)));
    if (!file.ok()) return Bad(file.status());
    reader.shard_files_.push_back(*std::move(file));
  }
  return reader;
}

absl::Status CheckpointReader::CheckFiles() const {
  std::set<std::string> names;
  for (const CheckpointFile& file : manifest_.files) {
    names.insert(file.name);
    PLAIT_RETURN_IF_ERROR(CheckFile(folder_, file));
  }
  for (int64_t rank = 0; rank < manifest_.ranks; ++rank) {
    if (names.count(ShardFileName(rank)) == 0) {
      return absl::DataLossError(absl::StrCat(folder_, "/", kCheckpointManifestName,
                                              ": does not list ", ShardFileName(rank), " of its ",
                                              manifest_.ranks, " ranks"));
    }
  }
  return absl::OkStatus();
}

std::vector<StoredTensor> CheckpointReader::Tensors() const {
  std::vector<StoredTensor> tensors;
  for (const ShardFile& file : shard_files_) {
    tensors.insert(tensors.end(), file.tensors().begin(), file.tensors().end());
  }
  return tensors;
}

absl::StatusOr<std::string> CheckpointReader::Attachment(const std::string& name) const {
  for (const CheckpointFile& file : manifest_.files) {
    if (file.name != name) continue;
    absl::StatusOr<std::string> bytes = ReadWholeFile(absl::StrCat(folder_, "/", name), file.bytes);
    if (!bytes.ok()) return Bad(bytes.status());
    return bytes;
  }
  return Bad(absl::NotFoundError(absl::StrCat(folder_, ": has no file ", name)));
}

absl::Status CheckpointReader::Match(UnaskedTensors unasked, const NamedState& state,
                                     std::vector<const StoredTensor*>& sources) const {
  if (shard_files_.size() != 1) {
    return absl::FailedPreconditionError(
        absl::StrCat(folder_, ": was saved by ", shard_files_.size(), " ranks, this run has one"));
  }
  std::map<std::string, const StoredTensor*> stored;
  for (const StoredTensor& tensor : shard_files_[0].tensors()) stored[tensor.name] = &tensor;
  for (const NamedTensor& tensor : state.tensors) {
    const auto found = stored.find(tensor.name);
    if (found == stored.end()) {
      return absl::FailedPreconditionError(
          absl::StrCat(folder_, ": has no tensor ", tensor.name, ", which this run needs"));
    }
    PLAIT_RETURN_IF_ERROR(CheckSame(folder_, tensor, *found->second));
    sources.push_back(found->second);
    stored.erase(found);
  }
  if (unasked == UnaskedTensors::kRefuse && !stored.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        folder_, ": has the tensor ", stored.begin()->first, ", which this run does not have"));
  }
  PLAIT_RETURN_IF_ERROR(
      CheckSameKeys(folder_, "counter", unasked, state.integers, manifest_.integers));
  return CheckSameKeys(folder_, "text", unasked, state.texts, manifest_.texts);
}

absl::Status CheckpointReader::Load(UnaskedTensors unasked, NamedState& state) const {
  std::vector<const StoredTensor*> sources;
  if (absl::Status status = Match(unasked, state, sources); !status.ok()) return Bad(status);
  for (size_t i = 0; i < sources.size(); ++i) {
    absl::Status status = shard_files_[0].Read(*sources[i], state.tensors[i].shard.raw());
    if (!status.ok()) return Bad(status);
  }
  for (auto& [name, value] : state.integers) value = manifest_.integers.at(name);
  for (auto& [name, value] : state.texts) value = manifest_.texts.at(name);
  return absl::OkStatus();
}

absl::Status CheckpointReader::VerifyTensors() const {
  std::vector<char> buffer;
  for (const ShardFile& file : shard_files_) {
    for (const StoredTensor& tensor : file.tensors()) {
      buffer.resize(static_cast<size_t>(tensor.num_elements) * SizeOf(tensor.dtype));
      if (absl::Status status = file.Read(tensor, buffer.data()); !status.ok()) return Bad(status);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<CheckpointReader> OpenNewestCheckpoint(const std::string& checkpoints_folder,
                                                      std::vector<RejectedCheckpoint>* rejected) {
  absl::StatusOr<std::vector<CheckpointEntry>> entries = ListCheckpoints(checkpoints_folder);
  if (!entries.ok()) return Bad(entries.status());
  for (const CheckpointEntry& entry : *entries) {
    absl::StatusOr<CheckpointReader> reader = CheckpointReader::Open(entry.folder);
    if (reader.ok()) return reader;
    rejected->push_back({entry.folder, std::string(reader.status().message())});
  }
  return Bad(absl::NotFoundError(entries->empty()
                                     ? absl::StrCat(checkpoints_folder, ": holds no checkpoint")
                                     : absl::StrCat(checkpoints_folder, ": none of its ",
                                                    entries->size(), " checkpoints verifies")));
}

absl::StatusOr<CheckpointReader> OpenCheckpointOrRun(const std::string& path,
                                                     std::vector<RejectedCheckpoint>* rejected) {
  std::error_code ignored;
  if (std::filesystem::exists(absl::StrCat(path, "/", kCheckpointManifestName), ignored)) {
    return CheckpointReader::Open(path);
  }
  const std::string checkpoints = absl::StrCat(path, "/checkpoints");
  if (std::filesystem::is_directory(checkpoints, ignored)) {
    return OpenNewestCheckpoint(checkpoints, rejected);
  }
  if (!std::filesystem::is_directory(path, ignored)) {
    return Bad(absl::NotFoundError(absl::StrCat(path, ": no such folder")));
  }
  return OpenNewestCheckpoint(path, rejected);
}

}  // namespace plait
