// Saves a checkpoint: complete under its final name or absent.
//   1. rank 0 makes a temporary folder beside the final one; 2. every rank writes its own file,
//   syncs it, reads it back and compares it with memory; 3. all ranks agree that it worked; 4. rank
//   0 writes the manifest (every file's length and digest) and syncs file and folder; 5. rename to
//   the final name, sync the parent; 6. all but the newest are retired.
// A failed save leaves the checkpoints there were before, and the memory it was to save unchanged.
// Each of these ends in an agreement of all ranks: what fails on one fails on all, with its reason.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/manifest_file.h"
#include "parallel/communicator.h"
#include "parallel/named_state.h"

namespace plait {

struct CheckpointContent {
  CheckpointDescription description;
  NamedState state;
  // Small files that make the checkpoint complete by itself (the tokenizer's), bytes by name.
  std::map<std::string, std::string> attachments;
};

class CheckpointWriter {
 public:
  // Saves into `checkpoints_folder`, made on the first save; keeps the newest `keep`. The
  // communicator outlives the writer.
  CheckpointWriter(Communicator& world, std::string checkpoints_folder, int64_t keep)
      : world_(world), checkpoints_folder_(std::move(checkpoints_folder)), keep_(keep) {}

  // Removes what a killed process left in the folder. Collective; call it once at start.
  absl::Status RemoveLeftovers();

  // Collective; returns the checkpoint's folder. One of the same step is replaced. Scalars and
  // attachments are rank 0's; FailedPrecondition where another rank's step or scalars differ.
  // ResourceExhausted (naming the bytes needed and free where the disk is too small), Unavailable,
  // DataLoss, all with exit code 75 (base/exit_code.h). The same error on every rank, "rank 2: ..."
  // where not all have it.
  absl::StatusOr<std::string> Save(const CheckpointContent& content);

 private:
  absl::Status SaveAs(const std::string& name, const std::string& temporary,
                      const CheckpointContent& content);
  absl::Status MakeTemporary(const std::string& folder, int64_t needed_bytes);
  absl::Status WriteOwnFile(const std::string& folder, const CheckpointContent& content);
  absl::Status Publish(const std::string& temporary, const std::string& name,
                       const CheckpointContent& content, std::vector<CheckpointFile> files);

  Communicator& world_;
  std::string checkpoints_folder_;
  int64_t keep_;
};

}  // namespace plait
