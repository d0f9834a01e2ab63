#include "trainer/initial_checkpoint.h"

#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "checkpoint/shard_file.h"

namespace plait {
namespace {

// All files beside the ranks' own.
std::vector<CheckpointFile> AttachedFiles(const CheckpointReader& checkpoint) {
  std::set<std::string> of_ranks;
  for (int64_t rank = 0; rank < checkpoint.manifest().ranks; ++rank) {
    of_ranks.insert(ShardFileName(rank));
  }
  std::vector<CheckpointFile> files;
  for (const CheckpointFile& file : checkpoint.manifest().files) {
    if (of_ranks.count(file.name) == 0) files.push_back(file);
  }
  return files;
}

}  // namespace

absl::Status CheckSameTokenizer(const Communicator& ranks, const CheckpointReader& checkpoint,
                                const std::string& data_folder,
                                const std::string& tokenizer_digest) {
  const std::string& expected = checkpoint.description().tokenizer_digest;
  if (expected.empty()) {
    if (ranks.rank() == 0) {
      LogWarning(absl::StrCat(checkpoint.folder(), ": carries no tokenizer; whether ", data_folder,
                              " was made with its own cannot be told"));
    }
    return absl::OkStatus();
  }
  if (expected == tokenizer_digest) return absl::OkStatus();
  // A converted checkpoint may carry the same tokenizer in two formats.
  std::string carried;
  for (const CheckpointFile& file : AttachedFiles(checkpoint)) {
    if (file.name != "tokenizer.model" && file.name != "tokenizer.json") continue;
    if (file.digest == tokenizer_digest) return absl::OkStatus();
    if (carried.empty() || file.digest == expected) carried = file.name;
  }
  return absl::FailedPreconditionError(absl::StrCat(
      data_folder, ": its tokenizer has digest ", tokenizer_digest, ", that of ",
      checkpoint.folder(), " ", expected, "; prepare the data with the checkpoint's: --tokenizer ",
      checkpoint.folder(), "/", carried.empty() ? "tokenizer.model" : carried));
}

absl::StatusOr<std::map<std::string, std::string>> AttachmentsOf(
    const CheckpointReader& checkpoint) {
  std::map<std::string, std::string> attachments;
  for (const CheckpointFile& file : AttachedFiles(checkpoint)) {
    PLAIT_ASSIGN_OR_RETURN(attachments[file.name], checkpoint.Attachment(file.name));
  }
  return attachments;
}

}  // namespace plait
