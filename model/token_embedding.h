// Token embedding: y[t] = weight[token[t]]; padding (a negative id) reads as zeros. The tensor axis
// cuts the vocabulary: each rank looks up what it has, and the sum over the ranks is dealt out as
// rows.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "model/initialization.h"
#include "model/model_shape.h"
#include "model/tensor_parallel.h"

namespace plait {

class TokenEmbedding {
 public:
  TokenEmbedding(const ModelShape& shape, DType dtype, const DeviceMesh& mesh);

  // tokens: i32 [tokens of the segment], on the host. Returns [own rows, model_dim].
  // InvalidArgument where an id is past the vocabulary.
  absl::StatusOr<Tensor> Forward(Execution& execution, const Tensor& tokens) const;
  // dy: [own rows, model_dim]. Adds to the weight's gradient.
  absl::Status Backward(Execution& execution, const Tensor& dy, const Tensor& tokens);

  LayerParameter& weight() { return weight_; }

 private:
  // Ids counted in this rank's part of the vocabulary, those of other ranks as padding; on the
  // execution's device.
  absl::StatusOr<Tensor> OwnIds(Execution& execution, const Tensor& tokens) const;

  TensorParallel tensor_;
  int64_t vocabulary_;  // of all ranks
  LayerParameter weight_;
};

}  // namespace plait
