// The tensor axis inside a block. Between blocks every rank of it holds some rows of its segment's
// residual stream (sequence parallelism); a mixer or feed-forward works on all rows with a part of
// its channels, and its output is a sum over the ranks:
//   y = Gather(norm(rows));  partial = block(y);  delta = ReduceScatter(partial)
// The backward mirrors it: the gradient of Gather is ReduceScatter, and the other way round.
// Sources: Shoeybi et al., "Megatron-LM", 2019; Korthikanti et al., "Reducing Activation
// Recomputation", 2022.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "base/tensor.h"
#include "parallel/device_mesh.h"

namespace plait {

// How the tensor axis cuts a linear layer's weight.
enum class TensorSplit {
  kNone,    // every rank has all of it
  kColumn,  // by outputs, bias with them: each rank computes its own
  kRow,     // by inputs: each rank computes a part of a sum
};

struct TensorCut {
  TensorSplit split = TensorSplit::kNone;
  int64_t rank = 0;
  int64_t ranks = 1;
  int64_t segments = 1;  // equal parts of the outputs that are each cut by themselves
};

class TensorParallel {
 public:
  explicit TensorParallel(const DeviceMesh& mesh) : ranks_(&mesh.axis(MeshAxis::kTensor)) {}

  int64_t size() const { return ranks_->size(); }
  int64_t rank() const { return ranks_->rank(); }
  // Of a size that the axis divides, what one rank has.
  int64_t Share(int64_t size) const { return size / ranks_->size(); }

  TensorCut Column(int64_t segments = 1) const {
    return {TensorSplit::kColumn, rank(), size(), segments};
  }
  TensorCut Row() const { return {TensorSplit::kRow, rank(), size(), 1}; }

  // rows: [own rows, width]. Returns [all rows of the segment, width].
  absl::StatusOr<Tensor> Gather(Execution& execution, const Tensor& rows) const;
  // partial: [all rows of the segment, width]. Returns own rows of the sum over the ranks.
  absl::StatusOr<Tensor> ReduceScatter(Execution& execution, const Tensor& partial) const;
  // In place; the same bits on every rank.
  absl::Status AllReduce(Execution& execution, Tensor& partial) const;

 private:
  Communicator* ranks_;
};

}  // namespace plait
