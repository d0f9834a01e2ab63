// The parameters of a plait checkpoint as source and as target of a transfer. In the checkpoint's
// files they are named "parameters/<logical name>", experts fused.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/allocator.h"
#include "base/early_writeback.h"
#include "base/segmented_digest.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/shard_file.h"
#include "checkpoint/tensor_transfer.h"

namespace plait {

// Sources are the checkpoint's parameters by name, without the prefix; what else it holds (an
// optimizer's state) is none of them.
class CheckpointTensorReader : public TensorReader {
 public:
  // The checkpoint outlives the reader.
  explicit CheckpointTensorReader(const CheckpointReader& checkpoint);

  const std::vector<SourceTensor>& sources() const { return sources_; }
  absl::StatusOr<std::shared_ptr<const void>> Read(size_t source, int64_t begin,
                                                   int64_t count) override;

 private:
  const CheckpointReader& checkpoint_;
  std::vector<SourceTensor> sources_;
  std::shared_ptr<Allocator> allocator_;
};

// Writes this rank's targets into its file of a checkpoint.
class CheckpointTensorWriter : public TensorWriter {
 public:
  // path: of the file, which must not exist; made at once, with room for `bytes` of tensors, and to
  // be synced after Close. The plan outlives the writer.
  static absl::StatusOr<CheckpointTensorWriter> Create(const std::string& path, int64_t bytes,
                                                       const TensorPlan& plan);

  absl::Status Write(size_t target, int64_t begin, int64_t count, const void* data) override;
  absl::Status End(size_t target, const std::string& digest) override;
  absl::Status Close() { return file_.Close(); }
  // What was written, for CollectRankFiles.
  SegmentedDigest TakeDigest() { return std::move(digest_); }

 private:
  CheckpointTensorWriter(ShardFileWriter file, EarlyWriteback writeback, const TensorPlan& plan)
      : file_(std::move(file)), writeback_(std::move(writeback)), plan_(plan) {}

  ShardFileWriter file_;
  EarlyWriteback writeback_;
  const TensorPlan& plan_;
  SegmentedDigest digest_{kDigestSegmentBytes};
  int64_t place_ = 0;  // of the target that is being written, in the file
};

}  // namespace plait
