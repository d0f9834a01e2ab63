// manifest.json of a folder written by `plait prepare`:
//   manifest.json, tokenizer.model or tokenizer.json (and tokenizer_config.json), vocabulary.h5
//   (/byte_length i32 [vocabulary]), train-00000.h5 ..., heldout-00000.h5 ...
// It names every file with its length and XXH3-128 digest.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace plait {

struct ManifestFile {
  std::string name;  // inside the folder
  int64_t bytes = 0;
  std::string digest;
};

struct ManifestShard {
  ManifestFile file;
  int64_t documents = 0;
  int64_t tokens = 0;
  int64_t text_bytes = 0;
};

struct PreparedManifest {
  ManifestFile tokenizer;  // its digest is the tokenizer's
  ManifestFile vocabulary;
  int64_t vocabulary_size = 0;
  int32_t bos_id = 0;
  int32_t eos_id = 0;
  // The tokenizer puts a space before every text: its byte is not one of the text.
  bool has_dummy_prefix = false;
  std::vector<ManifestShard> train;
  std::vector<ManifestShard> heldout;

  // XXH3-128 over the tokenizer's and the training shards' digests: the same training data, the
  // same fingerprint.
  std::string Fingerprint() const;
};

inline constexpr char kManifestName[] = "manifest.json";
inline constexpr char kVocabularyName[] = "vocabulary.h5";

// Writes folder/manifest.json and syncs it.
absl::Status WriteManifest(const std::string& folder, const PreparedManifest& manifest);

// NotFound where the folder or its manifest is not there; DataLoss, naming the file and the field,
// for anything that is not a manifest of this version.
absl::StatusOr<PreparedManifest> ReadManifest(const std::string& folder);

// Length and digest of folder/name as they are now.
absl::StatusOr<ManifestFile> DescribeFile(const std::string& folder, const std::string& name);

// Reads the files of the manifest and compares lengths and digests. DataLoss naming the first that
// differs. Shards are left out where they are longer than max_shard_bytes together: reading them
// takes minutes, and a run should start in a second.
absl::Status VerifyPrepared(const std::string& folder,
                            int64_t max_shard_bytes = std::numeric_limits<int64_t>::max());

}  // namespace plait
