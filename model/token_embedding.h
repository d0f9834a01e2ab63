// Token embedding: y[t] = weight[token[t]]; padding (a negative id) reads as zeros.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "model/initialization.h"
#include "model/model_shape.h"

namespace plait {

class TokenEmbedding {
 public:
  TokenEmbedding(const ModelShape& shape, DType dtype);

  // tokens: i32 [tokens]. Returns [tokens, model_dim]. InvalidArgument where an id is past the
  // vocabulary.
  absl::StatusOr<Tensor> Forward(Execution& execution, const Tensor& tokens) const;
  // dy: [tokens, model_dim]. Adds to the weight's gradient.
  absl::Status Backward(Execution& execution, const Tensor& dy, const Tensor& tokens);

  LayerParameter& weight() { return weight_; }

 private:
  LayerParameter weight_;
};

}  // namespace plait
