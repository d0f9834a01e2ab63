#include "checkpoint/checkpoint_assembly.h"

#include <cstring>
#include <filesystem>
#include <future>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/digest.h"
#include "base/durable_file.h"
#include "base/status_macros.h"
#include "base/tensor.h"
#include "checkpoint/shard_file.h"
#include "parallel/host_collectives.h"
#include "parallel/status_agreement.h"

namespace plait {
namespace {

// What a rank tells the others about its file: its bytes and its digest.
constexpr int64_t kReportWords = 3;
constexpr int64_t kDigestBytes = 16;

// Collective: every rank's file, in rank order.
absl::StatusOr<std::vector<CheckpointFile>> GatherFiles(Communicator& world,
                                                        const CheckpointFile& file) {
  Tensor own = Tensor::OnHost(DType::kI64, {kReportWords});
  own.data<int64_t>()[0] = file.bytes;
  const std::string digest = absl::HexStringToBytes(file.digest);
  PLAIT_CHECK(digest.size() == kDigestBytes);
  std::memcpy(own.data<int64_t>() + 1, digest.data(), kDigestBytes);
  PLAIT_ASSIGN_OR_RETURN(const Tensor all, GatherOnHost(world, own));
  std::vector<CheckpointFile> files;
  for (int rank = 0; rank < world.size(); ++rank) {
    const int64_t* words = all.data<int64_t>() + rank * kReportWords;
    files.push_back({ShardFileName(rank), words[0],
                     absl::BytesToHexString(
                         absl::string_view(reinterpret_cast<const char*>(words + 1), kDigestBytes)),
                     kDigestSegmentBytes});
  }
  return files;
}

// Syncs the file while it is read.
absl::Status Measure(const std::string& path, SegmentedDigest written, CheckpointFile& file) {
  std::future<absl::Status> synced = std::async(std::launch::async, SyncFile, path);
  const absl::StatusOr<std::string> digest = written.Finish(path);
  PLAIT_RETURN_IF_ERROR(synced.get());
  PLAIT_RETURN_IF_ERROR(digest.status());
  file.digest = *digest;
  std::error_code error;
  file.bytes = static_cast<int64_t>(std::filesystem::file_size(path, error));
  return error ? SystemError(path, "cannot be measured", error.value()) : absl::OkStatus();
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

absl::StatusOr<std::vector<CheckpointFile>> CollectRankFiles(Communicator& world,
                                                             const std::string& folder,
                                                             SegmentedDigest written) {
  CheckpointFile own;
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(
      world,
      Measure(absl::StrCat(folder, "/", ShardFileName(world.rank())), std::move(written), own)));
  return GatherFiles(world, own);
}

absl::Status CompleteCheckpoint(const std::string& folder, CheckpointManifest manifest,
                                const std::map<std::string, std::string>& attachments) {
  for (const auto& [name, bytes] : attachments) {
    PLAIT_ASSIGN_OR_RETURN(CheckpointFile file, WriteAttachment(folder, name, bytes));
    manifest.files.push_back(std::move(file));
  }
  PLAIT_RETURN_IF_ERROR(WriteFileDurably(absl::StrCat(folder, "/", kCheckpointManifestName),
                                         CheckpointManifestText(manifest)));
  return SyncFolder(folder);
}

}  // namespace plait
