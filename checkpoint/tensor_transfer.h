// Carries out a TensorPlan: streams every source tensor once, in pieces of a few MiB, into the
// target tensors made of it, with the digest of every tensor's values on both sides. The work is
// dealt over the ranks in groups of tensors that belong together (a layer's experts), by bytes. On
// each rank one thread reads, converts and sums while another one writes, a few pieces behind;
// memory does not grow with the tensors.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/tensor_plan.h"
#include "parallel/communicator.h"

namespace plait {

class TensorReader {
 public:
  virtual ~TensorReader() = default;
  // Elements [begin, begin + count) of the source, aligned for their type, as long as the pointer
  // is held. They are asked for in ascending order, once; the pointer may be dropped by another
  // thread.
  virtual absl::StatusOr<std::shared_ptr<const void>> Read(size_t source, int64_t begin,
                                                           int64_t count) = 0;
};

// All calls come from one thread, another than the reader's.
class TensorWriter {
 public:
  virtual ~TensorWriter() = default;
  // The next `count` elements of the target, in its dtype; one target after the other.
  virtual absl::Status Write(size_t target, int64_t begin, int64_t count, const void* data) = 0;
  // All elements of the target have been written.
  virtual absl::Status End(size_t target, const std::string& digest) = 0;
};

// Of the values' bytes, XXH3-128, in the order of the plan's sources and targets.
struct TransferDigests {
  std::vector<std::string> sources;
  std::vector<std::string> targets;
};

// Which rank writes each target: the same on every rank.
struct TransferDeal {
  std::vector<int> rank_of_target;
  std::vector<int> rank_of_source;
  std::vector<int64_t> bytes_of_rank;  // read
};
TransferDeal DealTransfer(const TensorPlan& plan, std::span<const SourceTensor> sources, int ranks);

// bytes: read by this rank since the last call. An error ends the transfer.
using TransferProgress = std::function<absl::Status(int64_t bytes)>;

// Collective. sources: those the plan was made from. Each rank reads and writes what the deal gives
// it. The same on every rank: the digests of all tensors, or the failure. OutOfRange for a value
// that the target's dtype cannot hold, FailedPrecondition for a copy that differs from its
// original, both naming tensor and element.
absl::StatusOr<TransferDigests> TransferTensors(Communicator& world, const TensorPlan& plan,
                                                std::span<const SourceTensor> sources,
                                                TensorReader& reader, TensorWriter& writer,
                                                const TransferProgress& progress);

}  // namespace plait
