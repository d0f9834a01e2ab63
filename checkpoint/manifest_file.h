// The manifest of a checkpoint as plain values, and its file: text of checkpoint/manifest.proto,
// then one comment line with the digest of everything above, so that damage anywhere is found.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace plait {

inline constexpr char kCheckpointManifestName[] = "manifest.textproto";
inline constexpr int64_t kMaxCheckpointManifestBytes = 16 << 20;

// What the owner of a run says about a checkpoint, beside its tensors.
struct CheckpointDescription {
  int64_t step = 0;   // steps of the run that were done
  int64_t stage = 0;  // index of the stage of the next step
  std::string recipe_text;
  std::string recipe_digest;
  std::string model_digest;  // of everything that the weights' meaning depends on
  std::string tokenizer_digest;
};

struct CheckpointFile {
  std::string name;  // inside the checkpoint's folder
  int64_t bytes = 0;
  std::string digest;
  int64_t segment_bytes = 0;  // of the digest, see base/segmented_digest.h; 0: of all bytes at once
};

struct CheckpointManifest {
  CheckpointDescription description;
  int64_t ranks = 1;
  std::map<std::string, int64_t> integers;
  std::map<std::string, std::string> texts;
  std::vector<CheckpointFile> files;
};

std::string CheckpointManifestText(const CheckpointManifest& manifest);

// `path` stands for the file in errors. DataLoss, one line, for anything that
// CheckpointManifestText did not write: damage, text that does not parse (with line and column), a
// newer format, a file name with a folder in it.
absl::StatusOr<CheckpointManifest> ParseCheckpointManifest(const std::string& text,
                                                           const std::string& path);
// NotFound or DataLoss.
absl::StatusOr<CheckpointManifest> ReadCheckpointManifest(const std::string& checkpoint_folder);

}  // namespace plait
