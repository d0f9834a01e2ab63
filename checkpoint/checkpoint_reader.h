// Reads checkpoints back. A checkpoint is opened only after every file has the length and digest
// that its manifest states. There is no pointer to the latest one: the newest that verifies is it.
// All errors carry exit code 3 (base/exit_code.h), are one line and name the file or tensor.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/manifest_file.h"
#include "checkpoint/shard_file.h"
#include "parallel/named_state.h"

namespace plait {

enum class UnaskedTensors {
  kRefuse,  // the checkpoint must hold exactly the tensors and scalars of the state
  kIgnore,  // it may hold more: an optimizer's beside the weights
};

class CheckpointReader {
 public:
  // Verifies the manifest and every file. NotFound or DataLoss.
  static absl::StatusOr<CheckpointReader> Open(const std::string& folder);

  const std::string& folder() const { return folder_; }
  const CheckpointManifest& manifest() const { return manifest_; }
  const CheckpointDescription& description() const { return manifest_.description; }
  // Of every rank's file.
  std::vector<StoredTensor> Tensors() const;
  // Bytes of an attached file. NotFound.
  absl::StatusOr<std::string> Attachment(const std::string& name) const;

  // Fills the state's tensors in place, and its integers and texts. FailedPrecondition naming the
  // first tensor or scalar that is missing, not asked for, of another shape, dtype or layout;
  // nothing is written then. DataLoss where a shard does not have its digest.
  absl::Status Load(UnaskedTensors unasked, NamedState& state) const;

  // Reads every shard once and compares it with its digest.
  absl::Status VerifyTensors() const;

 private:
  CheckpointReader() = default;
  absl::Status CheckFiles() const;
  absl::Status Match(UnaskedTensors unasked, const NamedState& state,
                     std::vector<const StoredTensor*>& sources) const;

  std::string folder_;
  CheckpointManifest manifest_;
  std::vector<ShardFile> shard_files_;
};

struct RejectedCheckpoint {
  std::string folder;
  std::string reason;
};

// The newest checkpoint of the folder that verifies; `rejected` gets every newer one and why. A
// state that does not fit is no reason to take an older one: Load tells. NotFound where there is
// none.
absl::StatusOr<CheckpointReader> OpenNewestCheckpoint(const std::string& checkpoints_folder,
                                                      std::vector<RejectedCheckpoint>* rejected);

// `path` may be a checkpoint, a run's folder (its newest is taken) or a folder of checkpoints.
absl::StatusOr<CheckpointReader> OpenCheckpointOrRun(const std::string& path,
                                                     std::vector<RejectedCheckpoint>* rejected);

}  // namespace plait
