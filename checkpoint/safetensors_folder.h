// The tensors of a Hugging Face model folder: model.safetensors alone, or the files that
// model.safetensors.index.json names. The index must agree with the files in every tensor and byte.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/safetensors_file.h"

namespace plait {

inline constexpr char kSafetensorsIndexName[] = "model.safetensors.index.json";

class SafetensorsFolder {
 public:
  struct Entry {
    const SafetensorsFile* file = nullptr;  // as long as the folder
    const SafetensorsTensor* tensor = nullptr;
    std::string file_name;
  };

  // NotFound where there are no safetensors. DataLoss, one line that names the file or tensor: a
  // damaged file; a tensor that the index gives to a file that does not have it; one in a file, or
  // a file in the folder, that the index does not name; a wrong total_size.
  static absl::StatusOr<SafetensorsFolder> Open(const std::string& folder);

  const std::vector<Entry>& tensors() const { return tensors_; }  // by name

 private:
  absl::Status AddFile(const std::string& folder, const std::string& name);

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<Entry> tensors_;
};

struct SafetensorsIndex {
  std::map<std::string, std::string> file_of_tensor;
  int64_t total_bytes = -1;  // -1: not said
};

// DataLoss, one line that begins with `path`.
absl::StatusOr<SafetensorsIndex> ParseSafetensorsIndex(std::string_view json,
                                                       const std::string& path);
std::string SafetensorsIndexText(const SafetensorsIndex& index);

// "model-00002-of-00005.safetensors", counted from 0; "model.safetensors" where there is only one.
std::string SafetensorsShardName(size_t shard, size_t shards);

}  // namespace plait
