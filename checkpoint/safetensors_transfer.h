// The tensors of a Hugging Face model folder as source and as target of a transfer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/allocator.h"
#include "base/early_writeback.h"
#include "checkpoint/safetensors_folder.h"
#include "checkpoint/safetensors_writer.h"
#include "checkpoint/tensor_transfer.h"

namespace plait {

// Sources are the folder's tensors, in its order.
class SafetensorsReader : public TensorReader {
 public:
  // The folder outlives the reader.
  explicit SafetensorsReader(const SafetensorsFolder& folder) : folder_(folder) {}

  static std::vector<SourceTensor> Sources(const SafetensorsFolder& folder);
  absl::StatusOr<std::shared_ptr<const void>> Read(size_t source, int64_t begin,
                                                   int64_t count) override;

 private:
  const SafetensorsFolder& folder_;
  std::shared_ptr<Allocator> allocator_ = Allocator::Create();
};

// The files that hold a plan's targets, in its order: a file is full where the next tensor would
// exceed `max_file_bytes` of data; a tensor is never split. At least one file.
struct SafetensorsLayout {
  struct File {
    std::string name;
    SafetensorsHeader header;
  };
  std::vector<File> files;
  std::vector<size_t> file_of_target;
  std::vector<int64_t> begin_of_target;  // byte in its file's data
  int64_t total_bytes = 0;               // of all tensors

  static SafetensorsLayout For(const TensorPlan& plan, int64_t max_file_bytes);
  // Of the whole folder's tensors: files with their headers, and the index where there are several.
  int64_t file_bytes() const;
  // Makes every file, with its header, and the index.
  absl::Status CreateFiles(const std::string& folder) const;
};

// Writes targets into the files that CreateFiles made; several processes may, each its own targets.
class SafetensorsFolderWriter : public TensorWriter {
 public:
  // The layout outlives the writer.
  SafetensorsFolderWriter(std::string folder, const TensorPlan& plan,
                          const SafetensorsLayout& layout)
      : folder_(std::move(folder)), plan_(plan), layout_(layout) {}

  absl::Status Write(size_t target, int64_t begin, int64_t count, const void* data) override;
  absl::Status End(size_t, const std::string&) override { return absl::OkStatus(); }
  // Syncs what was written to.
  absl::Status Finish();

 private:
  std::string folder_;
  const TensorPlan& plan_;
  const SafetensorsLayout& layout_;
  // The one that is being written to: a rank's targets ascend, and so do their files.
  struct OpenFile {
    size_t index = 0;
    SafetensorsWriter writer;
    EarlyWriteback writeback;
  };
  std::optional<OpenFile> open_;
};

}  // namespace plait
