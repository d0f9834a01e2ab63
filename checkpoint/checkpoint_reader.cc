#include "checkpoint/checkpoint_reader.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/durable_file.h"
#include "base/exit_code.h"
#include "base/segmented_digest.h"
#include "base/status_macros.h"
#include "checkpoint/shard_description.h"
#include "checkpoint/shard_overlap.h"
#include "parallel/host_collectives.h"
#include "parallel/status_agreement.h"

namespace plait {
namespace {

// What may pass (too many open files, a server that does not answer) says nothing of the
// checkpoint.
bool MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status);
}

absl::Status Bad(absl::Status status) {
  return MayPass(status) ? status : WithExitCode(std::move(status), ExitCode::kBadCheckpoint);
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
  PLAIT_ASSIGN_OR_RETURN(const std::string digest,
                         file.segment_bytes > 0 ? SegmentedDigestOfFile(path, file.segment_bytes)
                                                : DigestOfFile(path));
  if (digest == file.digest) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(path, ": damaged: expected digest ", file.digest, ", found ", digest));
}

// The same on every rank, with the exit code of a bad checkpoint where one has it.
absl::Status Agree(Communicator& world, absl::Status own) {
  return AgreeOnStatus(world, Bad(std::move(own)));
}

// A failure of the ranks to talk to each other keeps its own exit code.
absl::Status CheckSameOnAll(Communicator& world, const std::string& what, const std::string& text) {
  absl::Status status = CheckSameText(world, what, text);
  return IsAgreed(status) ? Bad(std::move(status)) : status;
}

// One of a run is ordered by its name.
absl::Status CheckName(const std::string& folder, int64_t step) {
  const std::string name = std::filesystem::path(folder).filename().string();
  if (!IsCheckpointName(name) || name == CheckpointName(step)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(folder, ": holds step ", step, "; call it ",
                                          CheckpointName(step), ", or give it another name"));
}

bool IsModelFolder(const std::string& folder) {
  std::error_code ignored;
  return std::filesystem::exists(absl::StrCat(folder, "/config.json"), ignored);
}

// The first of `elements` that no copy writes; -1 where there is none.
int64_t FirstMissing(std::vector<ShardCopy> copies, int64_t elements) {
  std::sort(copies.begin(), copies.end(),
            [](const ShardCopy& a, const ShardCopy& b) { return a.destination < b.destination; });
  int64_t end = 0;
  for (const ShardCopy& copy : copies) {
    if (copy.destination > end) return end;
    end = std::max(end, copy.destination + copy.length);
  }
  return end < elements ? end : -1;
}

int64_t LogicalElement(std::span<const ShardRun> runs, int64_t shard_element) {
  for (const ShardRun& run : runs) {
    if (shard_element < run.shard + run.length) return run.logical + shard_element - run.shard;
  }
  return -1;
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
  return Open(*MakeSingleRankCommunicator(), folder);
}

absl::StatusOr<CheckpointReader> CheckpointReader::Open(Communicator& world,
                                                        const std::string& folder) {
  CheckpointReader reader;
  reader.folder_ = folder;
  absl::StatusOr<CheckpointManifest> manifest = ReadCheckpointManifest(folder);
  absl::Status read = manifest.status();
  if (read.ok()) read = CheckName(folder, manifest->description.step);
  PLAIT_RETURN_IF_ERROR(Agree(world, read));
  reader.manifest_ = *std::move(manifest);
  PLAIT_RETURN_IF_ERROR(CheckSameOnAll(world, absl::StrCat(folder, "/", kCheckpointManifestName),
                                       CheckpointManifestText(reader.manifest_)));
  PLAIT_RETURN_IF_ERROR(Agree(world, reader.CheckFiles(world)));
  // Only now that all bytes are known to be those that were written.
  PLAIT_RETURN_IF_ERROR(reader.DescribeShardFiles(world));
  PLAIT_RETURN_IF_ERROR(Agree(world, reader.CollectParts()));
  return reader;
}

absl::Status CheckpointReader::CheckFiles(const Communicator& world) const {
  std::set<std::string> names;
  for (const CheckpointFile& file : manifest_.files) names.insert(file.name);
  for (int64_t rank = 0; rank < manifest_.ranks; ++rank) {
    if (names.count(ShardFileName(rank)) == 0) {
      return absl::DataLossError(absl::StrCat(folder_, "/", kCheckpointManifestName,
                                              ": does not list ", ShardFileName(rank), " of its ",
                                              manifest_.ranks, " ranks"));
    }
  }
  for (size_t i = static_cast<size_t>(world.rank()); i < manifest_.files.size();
       i += static_cast<size_t>(world.size())) {
    PLAIT_RETURN_IF_ERROR(CheckFile(folder_, manifest_.files[i]));
  }
  return absl::OkStatus();
}

// Every file is opened by one rank. It keeps it open: where a checkpoint's ranks are the run's, it
// is the file that it reads.
absl::Status CheckpointReader::DescribeShardFiles(Communicator& world) {
  std::map<int64_t, ShardFile> opened;
  const auto open_own = [&]() -> absl::Status {
    for (int64_t rank = world.rank(); rank < manifest_.ranks; rank += world.size()) {
      PLAIT_ASSIGN_OR_RETURN(ShardFile file,
                             ShardFile::Open(absl::StrCat(folder_, "/", ShardFileName(rank))));
      opened.emplace(rank, std::move(file));
    }
    return absl::OkStatus();
  };
  PLAIT_RETURN_IF_ERROR(Agree(world, open_own()));
  DescribedFiles files;
  if (world.size() > 1) {
    for (const auto& [rank, file] : opened) files[rank] = file.tensors();
    const std::string own = BytesOf(files);
    files.clear();
    PLAIT_RETURN_IF_ERROR(
        ExchangeBytesOnHost(world, own, [&](int rank, std::string_view bytes) -> absl::Status {
          return rank == world.rank() ? absl::OkStatus() : AddDescribedFiles(bytes, files);
        }));
  }
  for (int64_t rank = 0; rank < manifest_.ranks; ++rank) {
    const auto own = opened.find(rank);
    shard_files_.push_back(
        own != opened.end()
            ? std::move(own->second)
            : ShardFile(absl::StrCat(folder_, "/", ShardFileName(rank)), std::move(files[rank])));
  }
  return absl::OkStatus();
}

// Once the ranks' files are known.
absl::Status CheckpointReader::CollectParts() {
  for (int64_t rank = 0; rank < manifest_.ranks; ++rank) {
    const ShardFile& file = shard_files_[static_cast<size_t>(rank)];
    for (const StoredTensor& stored : file.tensors()) {
      Parts& parts = tensors_[stored.name];
      parts.push_back({rank, &stored});
      const StoredTensor& first = *parts.front().stored;
      if (stored.dtype == first.dtype && stored.spec.logical_shape == first.spec.logical_shape) {
        continue;
      }
      return absl::DataLossError(absl::StrCat(
          file.path(), ": ", stored.name, ": is ", Name(stored.dtype), " ",
          stored.spec.logical_shape.ToString(), ", in ", ShardFileName(parts.front().rank), " ",
          Name(first.dtype), " ", first.spec.logical_shape.ToString()));
    }
  }
  return absl::OkStatus();
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

absl::Status CheckpointReader::CheckTensor(const NamedTensor& wanted, StoredDTypes dtypes) const {
  const std::string where = absl::StrCat(folder_, ": ", wanted.name);
  if (!IsConsistent(wanted.spec) ||
      wanted.spec.elements.end - wanted.spec.elements.begin != wanted.shard.num_elements()) {
    return absl::InternalError(absl::StrCat(where, ": its spec does not describe the ",
                                            wanted.shard.num_elements(), " elements asked for"));
  }
  const auto found = tensors_.find(wanted.name);
  if (found == tensors_.end()) {
    // Tensors without elements are in no file.
    if (wanted.spec.logical_shape.num_elements() == 0) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat(folder_, ": has no tensor ", wanted.name, ", which this run needs"));
  }
  const StoredTensor& stored = *found->second.front().stored;
  if (!(stored.spec.logical_shape == wanted.spec.logical_shape)) {
    return absl::FailedPreconditionError(
        absl::StrCat(where, ": expected shape ", wanted.spec.logical_shape.ToString(), ", found ",
                     stored.spec.logical_shape.ToString()));
  }
  const bool widens =
      dtypes == StoredDTypes::kWiden && IsWidening(stored.dtype, wanted.shard.dtype());
  if (stored.dtype != wanted.shard.dtype() && !widens) {
    return absl::FailedPreconditionError(absl::StrCat(
        where, ": expected ", Name(wanted.shard.dtype()), ", found ", Name(stored.dtype)));
  }
  return absl::OkStatus();
}

absl::Status CheckpointReader::FindSources(const std::string& name, const ShardSpec& wanted,
                                           std::vector<Source>& sources) const {
  const std::vector<ShardRun> runs = RunsOf(wanted);
  if (runs.empty()) return absl::OkStatus();
  std::vector<ShardCopy> all;
  for (const Part& part : tensors_.at(name)) {
    std::vector<ShardCopy> copies = OverlapOf(RunsOf(part.stored->spec), runs);
    if (copies.empty()) continue;
    all.insert(all.end(), copies.begin(), copies.end());
    sources.push_back({part, std::move(copies)});
  }
  const int64_t missing = FirstMissing(std::move(all), wanted.elements.end - wanted.elements.begin);
  if (missing < 0) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(folder_, ": ", name, ": element ", LogicalElement(runs, missing), " of its ",
                   wanted.logical_shape.num_elements(), " is in none of ", ShardFileName(0), " to ",
                   ShardFileName(manifest_.ranks - 1)));
}

absl::Status CheckpointReader::CheckScalars(UnaskedTensors unasked, const NamedState& state) const {
  PLAIT_RETURN_IF_ERROR(
      CheckSameKeys(folder_, "counter", unasked, state.integers, manifest_.integers));
  return CheckSameKeys(folder_, "text", unasked, state.texts, manifest_.texts);
}

absl::Status CheckpointReader::Load(UnaskedTensors unasked, NamedState& state,
                                    StoredDTypes dtypes) const {
  std::vector<std::vector<Source>> sources(state.tensors.size());
  std::set<std::string> asked;
  for (size_t i = 0; i < state.tensors.size(); ++i) {
    const NamedTensor& tensor = state.tensors[i];
    asked.insert(tensor.name);
    if (absl::Status status = CheckTensor(tensor, dtypes); !status.ok()) return Bad(status);
    absl::Status status = FindSources(tensor.name, tensor.spec, sources[i]);
    if (!status.ok()) return Bad(status);
  }
  if (unasked == UnaskedTensors::kRefuse) {
    for (const auto& [name, parts] : tensors_) {
      if (asked.count(name) > 0) continue;
      return Bad(absl::FailedPreconditionError(
          absl::StrCat(folder_, ": has the tensor ", name, ", which this run does not have")));
    }
  }
  if (absl::Status status = CheckScalars(unasked, state); !status.ok()) return Bad(status);
  for (size_t i = 0; i < state.tensors.size(); ++i) {
    for (const Source& source : sources[i]) {
      const ShardFile& file = shard_files_[static_cast<size_t>(source.part.rank)];
      Tensor& shard = state.tensors[i].shard;
      absl::Status status = file.ReadCopies(*source.part.stored, source.copies,
                                            {shard.raw(), shard.dtype(), shard.num_elements()});
      if (!status.ok()) return Bad(status);
    }
  }
  for (auto& [name, value] : state.integers) value = manifest_.integers.at(name);
  for (auto& [name, value] : state.texts) value = manifest_.texts.at(name);
  return absl::OkStatus();
}

absl::Status CheckpointReader::VerifyTensors() const {
  for (const auto& [name, parts] : tensors_) {
    for (const Part& part : parts) {
      const ShardFile& file = shard_files_[static_cast<size_t>(part.rank)];
      absl::Status status = file.Verify(*part.stored);
      if (!status.ok()) return Bad(status);
    }
    std::vector<Source> sources;
    const ShardSpec whole = ShardSpec::Whole(parts.front().stored->spec.logical_shape);
    if (absl::Status status = FindSources(name, whole, sources); !status.ok()) return Bad(status);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<CheckpointEntry>> ListCheckpoints(
    Communicator& world, const std::string& checkpoints_folder) {
  absl::StatusOr<std::vector<CheckpointEntry>> entries = ListCheckpoints(checkpoints_folder);
  PLAIT_RETURN_IF_ERROR(Agree(world, entries.status()));
  std::string names;
  for (const CheckpointEntry& entry : *entries) absl::StrAppend(&names, entry.folder, "\n");
  PLAIT_RETURN_IF_ERROR(CheckSameOnAll(
      world, absl::StrCat("the list of checkpoints in ", checkpoints_folder), names));
  return entries;
}

absl::StatusOr<CheckpointReader> OpenNewestCheckpoint(const std::string& checkpoints_folder,
                                                      std::vector<RejectedCheckpoint>* rejected) {
  return OpenNewestCheckpoint(*MakeSingleRankCommunicator(), checkpoints_folder, rejected);
}

absl::StatusOr<CheckpointReader> OpenNewestCheckpoint(Communicator& world,
                                                      const std::string& checkpoints_folder,
                                                      std::vector<RejectedCheckpoint>* rejected) {
  PLAIT_ASSIGN_OR_RETURN(const std::vector<CheckpointEntry> entries,
                         ListCheckpoints(world, checkpoints_folder));
  for (const CheckpointEntry& entry : entries) {
    absl::StatusOr<CheckpointReader> reader = CheckpointReader::Open(world, entry.folder);
    // Older checkpoints do not help where the ranks cannot talk to each other.
    if (reader.ok() || !IsAgreed(reader.status()) || MayPass(reader.status())) return reader;
    rejected->push_back({entry.folder, std::string(reader.status().message())});
  }
  return Agree(world,
               absl::NotFoundError(entries.empty()
                                       ? absl::StrCat(checkpoints_folder, ": holds no checkpoint",
                                                      IsModelFolder(checkpoints_folder)
                                                          ? "; it is a model folder: make one of "
                                                            "it with plait convert"
                                                          : "")
                                       : absl::StrCat(checkpoints_folder, ": none of its ",
                                                      entries.size(), " checkpoints verifies")));
}

absl::StatusOr<CheckpointReader> OpenCheckpointOrRun(const std::string& path,
                                                     std::vector<RejectedCheckpoint>* rejected) {
  return OpenCheckpointOrRun(*MakeSingleRankCommunicator(), path, rejected);
}

absl::StatusOr<CheckpointReader> OpenCheckpointOrRun(Communicator& world, const std::string& path,
                                                     std::vector<RejectedCheckpoint>* rejected) {
  std::error_code ignored;
  const bool is_checkpoint =
      std::filesystem::exists(absl::StrCat(path, "/", kCheckpointManifestName), ignored);
  std::string folder = absl::StrCat(path, "/checkpoints");
  absl::Status found;
  if (is_checkpoint) {
    folder = path;
  } else if (!std::filesystem::is_directory(folder, ignored)) {
    folder = path;
    if (!std::filesystem::is_directory(path, ignored))
      found = absl::NotFoundError(absl::StrCat(path, ": no such folder"));
  }
  PLAIT_RETURN_IF_ERROR(Agree(world, found));
  PLAIT_RETURN_IF_ERROR(CheckSameOnAll(world, absl::StrCat("what is found at ", path),
                                       absl::StrCat(is_checkpoint ? "checkpoint " : "", folder)));
  return is_checkpoint ? CheckpointReader::Open(world, folder)
                       : OpenNewestCheckpoint(world, folder, rejected);
}

}  // namespace plait
