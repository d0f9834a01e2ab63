// The file of one rank in a checkpoint, rank-00000.h5: one flat dataset per tensor shard, named as
// the tensor, with Fletcher32 sums. Attributes of a dataset: logical_shape, dim0_ranges and
// other_ranges (begin, end, ...), elements (begin, end) as in ShardSpec, and digest, XXH3-128 of
// the shard's bytes in memory before they were written. Ranks that hold the same shard each store a
// part of its elements, so that every element is stored once. Empty shards are left out. Files of
// converted checkpoints are without Fletcher32 sums, see docs/decisions/0003.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "base/hdf5_file.h"
#include "base/view.h"
#include "checkpoint/shard_overlap.h"
#include "parallel/named_state.h"
#include "parallel/shard_spec.h"

namespace plait {

// "rank-00003.h5"
std::string ShardFileName(int64_t rank);

// Ranges as the attributes have them: begin, end, begin, end, ...
std::vector<int64_t> Flattened(std::span<const ShardSpec::Range> ranges);
std::vector<ShardSpec::Range> Paired(std::span<const int64_t> values);

struct StoredTensor {
  std::string name;
  DType dtype = DType::kF32;
  ShardSpec spec;
  int64_t num_elements = 0;  // of the shard
  std::string digest;
};

// Whether every value of `from` is one of `to` as well: bf16 and f16 to f32 and f64, f32 to f64.
bool IsWidening(DType from, DType to);

// What this rank saves of the tensor: its even part of what its replicas hold.
NamedTensor PartToSave(const NamedTensor& tensor);

// Writes such a file in pieces. After a failed call no other one is valid.
class ShardFileWriter {
 public:
  // A new file; errors of Hdf5File.
  static absl::StatusOr<ShardFileWriter> Create(const std::string& path, Hdf5Layout layout);

  // A shard of at least one element.
  absl::Status BeginTensor(const std::string& name, DType dtype, const ShardSpec& spec);
  // Elements [begin, begin + count) of the shard.
  absl::Status WriteRange(const std::string& name, DType dtype, int64_t begin, int64_t count,
                          const void* data);
  // Where the first byte of a tensor that was begun lies in the file. kContiguous only.
  absl::StatusOr<int64_t> PlaceOf(const std::string& name) const {
    return file_.ContiguousOffset(name);
  }
  absl::Status EndTensor(const std::string& name, const std::string& digest);
  // Writes out everything; the file still has to be synced.
  absl::Status Close() { return file_.Close(); }

 private:
  explicit ShardFileWriter(Hdf5File file, Hdf5Layout layout)
      : file_(std::move(file)), layout_(layout) {}

  Hdf5File file_;
  Hdf5Layout layout_;
};

// Writes this rank's parts of the tensors of `state`, syncs the file, reads it back and compares
// every shard with memory. Errors as Hdf5File's; DataLoss where the disk gave back other bytes than
// it was given.
absl::Status WriteShardFile(const std::string& path, const NamedState& state);

// Of one thread at a time.
class ShardFile {
 public:
  // Reads the description of every tensor. Verify the file's digest before: HDF5 is not safe on
  // hostile bytes. NotFound or DataLoss.
  static absl::StatusOr<ShardFile> Open(const std::string& path);
  // A file whose description is known: it is opened when something is read from it.
  ShardFile(std::string path, std::vector<StoredTensor> tensors)
      : path_(std::move(path)), tensors_(std::move(tensors)) {}

  // By name, in byte order.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  const std::string& path() const { return path_; }

  // Reads the shard in pieces and compares it with its digest. DataLoss.
  absl::Status Verify(const StoredTensor& tensor) const;

  // Copies those elements of the shard into `to`, the wanted shard's memory, and reads little more
  // than them. `copies` ascend. Where `to` is of another dtype, a wider one (IsWidening), elements
  // are converted on the way, in pieces. Of parts, and of what is converted, only HDF5's own sums
  // are checked, of the whole shard its digest too. DataLoss.
  absl::Status ReadCopies(const StoredTensor& tensor, std::span<const ShardCopy> copies,
                          VectorView to) const;

 private:
  absl::StatusOr<const Hdf5File*> Opened() const;
  absl::Status CheckDigest(const StoredTensor& tensor, const std::string& found) const;
  absl::Status ReadRange(const StoredTensor& tensor, int64_t begin, int64_t count,
                         void* data) const;

  std::string path_;
  std::vector<StoredTensor> tensors_;
  mutable std::optional<Hdf5File> file_;
};

}  // namespace plait
