// The end of writing a checkpoint: from the ranks' files to a folder that CheckpointReader opens.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/segmented_digest.h"
#include "checkpoint/manifest_file.h"
#include "parallel/communicator.h"

namespace plait {

// Collective: syncs every rank's file in `folder` (ShardFileName), and returns it with length and
// digest, in rank order. `written`, where the writer has one: what it saw of this rank's file.
absl::StatusOr<std::vector<CheckpointFile>> CollectRankFiles(
    Communicator& world, const std::string& folder,
    SegmentedDigest written = SegmentedDigest(kDigestSegmentBytes));

// Adds the attachments, bytes by name, to the files of `manifest`, then writes the manifest, and
// syncs everything. DataLoss where the disk gives back other bytes than it was given.
absl::Status CompleteCheckpoint(const std::string& folder, CheckpointManifest manifest,
                                const std::map<std::string, std::string>& attachments);

}  // namespace plait
