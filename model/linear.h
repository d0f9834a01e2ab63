// Linear layer: y = x W^T + b.  Backward: dx = dy W, dW += dy^T x, db += sum_t dy. The tensor axis
// may cut it: by columns (outputs), or by rows (inputs), where y is this rank's part of a sum to
// which the first rank adds the bias.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/matmul_args.h"
#include "model/initialization.h"
#include "model/tensor_parallel.h"

namespace plait {

enum class Bias { kNo, kYes };

class Linear {
 public:
  // name: without ".weight". The whole weight is [out_dim, in_dim]; the bias, where there is one,
  // starts at zero.
  Linear(const std::string& name, int64_t out_dim, int64_t in_dim, Bias bias, DType dtype,
         Initialization initialization, const TensorCut& cut = {});

  // y: [tokens, out_dim], overwritten.
  absl::Status Forward(Execution& execution, ConstMatrixView x, MatrixView y) const;
  // dx: [tokens, in_dim]; overwritten, or added to (f32 or f64) with Accumulate::kYes.
  absl::Status InputGradient(Execution& execution, ConstMatrixView dy, MatrixView dx,
                             Accumulate accumulate = Accumulate::kNo) const;
  // Adds to the gradients of weight and bias.
  absl::Status WeightGradient(Execution& execution, ConstMatrixView dy, ConstMatrixView x);

  // Of what this rank has.
  int64_t out_dim() const { return weight_.parameter.shape[0]; }

  void AppendParameters(std::vector<LayerParameter*>& parameters);

 private:
  LayerParameter weight_;
  LayerParameter bias_;  // shape of rank 0 where there is none
  bool adds_bias_;
};

}  // namespace plait
