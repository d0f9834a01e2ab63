// Reads checkpoints back, under any layout of ranks. A checkpoint is opened only after every file
// has the length and digest that its manifest states; several ranks deal the files among them and
// agree on what they found. There is no pointer to the latest one: the newest that verifies is it.
// Errors of a checkpoint carry exit code 3 (base/exit_code.h), are one line and name the file or
// tensor, and from collective calls they are the same on every rank; a communicator's own errors
// stay as they are.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/manifest_file.h"
#include "checkpoint/retention.h"
#include "checkpoint/shard_file.h"
#include "parallel/communicator.h"
#include "parallel/named_state.h"

namespace plait {

enum class UnaskedTensors {
  kRefuse,  // the checkpoint must hold exactly the tensors and scalars of the state
  kIgnore,  // it may hold more: an optimizer's beside the weights
};

// Of a tensor that is stored in another dtype than the state's.
enum class StoredDTypes {
  kSame,   // refused: a run goes on from exactly what it had
  kWiden,  // converted where no value changes: bf16 and f16 to f32, these to f64
};

class CheckpointReader {
 public:
  // A part of a tensor, as the file of `rank` holds it.
  struct Part {
    int64_t rank = 0;
    const StoredTensor* stored = nullptr;  // not null; as long as the reader
  };
  // One logical tensor: its parts, by rank, are of one dtype and logical shape. Never empty.
  using Parts = std::vector<Part>;

  // Verifies the manifest and every file. NotFound or DataLoss.
  static absl::StatusOr<CheckpointReader> Open(const std::string& folder);
  // Collective: rank r of N verifies files r, r + N, ..., and tells the others what is in them.
  // Files are opened when they are read: the folder must stay until then.
  static absl::StatusOr<CheckpointReader> Open(Communicator& world, const std::string& folder);

  const std::string& folder() const { return folder_; }
  const CheckpointManifest& manifest() const { return manifest_; }
  const CheckpointDescription& description() const { return manifest_.description; }
  // By name.
  const std::map<std::string, Parts>& tensors() const { return tensors_; }
  // Bytes of an attached file. NotFound.
  absl::StatusOr<std::string> Attachment(const std::string& name) const;

  // Fills the state's tensors in place, from the files of whatever ranks hold their elements, and
  // its integers and texts. FailedPrecondition naming the first tensor or scalar that is missing,
  // not asked for, of another shape or dtype, and DataLoss naming a tensor that no file holds all
  // elements of: nothing is written then. DataLoss where what is read is damaged. Not collective.
  absl::Status Load(UnaskedTensors unasked, NamedState& state,
                    StoredDTypes dtypes = StoredDTypes::kSame) const;

  // Reads every part once and compares it with its digest; DataLoss also where a tensor lacks
  // elements.
  absl::Status VerifyTensors() const;

 private:
  // What to copy from one part into one wanted shard.
  struct Source {
    Part part;
    std::vector<ShardCopy> copies;
  };

  CheckpointReader() = default;
  absl::Status CheckFiles(const Communicator& world) const;
  absl::Status DescribeShardFiles(Communicator& world);
  absl::Status CollectParts();
  absl::Status CheckTensor(const NamedTensor& wanted, StoredDTypes dtypes) const;
  absl::Status FindSources(const std::string& name, const ShardSpec& wanted,
                           std::vector<Source>& sources) const;
  absl::Status CheckScalars(UnaskedTensors unasked, const NamedState& state) const;

  std::string folder_;
  CheckpointManifest manifest_;
  std::vector<ShardFile> shard_files_;  // by rank
  std::map<std::string, Parts> tensors_;
};

struct RejectedCheckpoint {
  std::string folder;
  std::string reason;
};

// Collective: the checkpoints of the folder, newest first, the same on every rank.
// FailedPrecondition where ranks see different ones.
absl::StatusOr<std::vector<CheckpointEntry>> ListCheckpoints(Communicator& world,
                                                             const std::string& checkpoints_folder);

// The newest checkpoint of the folder that verifies; `rejected` gets every newer one and why. A
// state that does not fit is no reason to take an older one: Load tells. NotFound where there is
// none. With a communicator collective, and the same one on every rank.
absl::StatusOr<CheckpointReader> OpenNewestCheckpoint(const std::string& checkpoints_folder,
                                                      std::vector<RejectedCheckpoint>* rejected);
absl::StatusOr<CheckpointReader> OpenNewestCheckpoint(Communicator& world,
                                                      const std::string& checkpoints_folder,
                                                      std::vector<RejectedCheckpoint>* rejected);

// `path` may be a checkpoint, a run's folder (its newest is taken) or a folder of checkpoints. With
// a communicator collective.
absl::StatusOr<CheckpointReader> OpenCheckpointOrRun(const std::string& path,
                                                     std::vector<RejectedCheckpoint>* rejected);
absl::StatusOr<CheckpointReader> OpenCheckpointOrRun(Communicator& world, const std::string& path,
                                                     std::vector<RejectedCheckpoint>* rejected);

}  // namespace plait
