// ExpertFeedForward: the SwiGLU feed-forwards of the experts that one rank holds, over rows sorted
// by expert:
//   row = down_e(weight * silu(gate_e(x)) * up_e(x))
// The router weight multiplies the input of down_proj (equal, since that is linear). The weights of
// all experts are one tensor each, gate_up_proj [experts, 2 x hidden, model] and down_proj
// [experts, model, hidden], and products run in groups over exactly the rows that are there.
// Backward comes in two parts, so that another rank may have its rows' gradients while this one
// still sums weight gradients.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "base/tensor.h"
#include "model/initialization.h"
#include "model/model_shape.h"

namespace plait {

class ExpertFeedForward {
 public:
  // Rows of tokens, in the order of the experts.
  struct Rows {
    ConstMatrixView x;                   // [tokens or rows, model_dim]
    const int32_t* row_index = nullptr;  // [rows]: each one's row of x; absent: x is in order
    const int32_t* offsets = nullptr;    // [experts + 1]: rows of each expert
    ConstVectorView weights;             // [rows], of the router
    int64_t count() const { return weights.size; }
  };

  // name: "model.layers.3.feed_forward". Experts first .. first + experts of shape.experts.
  ExpertFeedForward(const std::string& name, const ModelShape& shape, int64_t first,
                    int64_t experts, DType dtype);

  // What the backward reads again: gate and up, [rows, 2 x hidden_dim].
  absl::StatusOr<Tensor> GateUp(Execution& execution, const Rows& rows) const;
  // out: [rows, model_dim], overwritten.
  absl::Status Output(Execution& execution, const Rows& rows, const Tensor& gate_up,
                      MatrixView out) const;

  // drows: gradient of Output's rows, [rows, model_dim]. dx: [rows, model_dim], in the order of the
  // experts, and dweights: [rows], overwritten. Returns the gradient of gate and up.
  absl::StatusOr<Tensor> InputGradient(Execution& execution, const Rows& rows,
                                       const Tensor& gate_up, ConstMatrixView drows, MatrixView dx,
                                       VectorView dweights) const;
  // Adds to the gradients of both weights. dgate_up: from InputGradient.
  absl::Status WeightGradient(Execution& execution, const Rows& rows, const Tensor& gate_up,
                              ConstMatrixView drows, const Tensor& dgate_up);

  void AppendParameters(std::vector<LayerParameter*>& parameters);

 private:
  absl::StatusOr<Tensor> Activated(Execution& execution, const Rows& rows,
                                   const Tensor& gate_up) const;

  std::string name_;
  int64_t experts_, model_dim_, hidden_dim_;
  LayerParameter gate_up_, down_;
};

}  // namespace plait
