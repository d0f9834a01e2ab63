// RMSNorm layer: y[t,d] = weight[d] * r[t,d] / sqrt(mean_d(r[t,d]^2) + epsilon), with r = residual
// + delta of the stream. Formulas of the backward: kernels/rms_norm_args.h.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "model/block.h"

namespace plait {

class RmsNorm {
 public:
  // name: without ".weight". dtype: that of the activations; the weight is f32 (f64 beside f64) and
  // starts at one.
  RmsNorm(const std::string& name, int64_t dim, double epsilon, DType dtype);

  // Replaces stream.residual by residual + delta, clears delta, returns y. inverse_rms (where not
  // nullptr): [tokens].
  absl::StatusOr<Tensor> Forward(Execution& execution, ResidualStream& stream,
                                 RowStatisticsPair* delta_statistics, Tensor* inverse_rms) const;
  // Over a column range of a wider matrix, without a residual. inverse_rms may be absent.
  absl::Status Forward(Execution& execution, ConstMatrixView x, MatrixView y,
                       VectorView inverse_rms) const;

  // Whether Backward adds to the weight's gradient: not where another rank adds the same.
  enum class WeightGradient { kAdded, kLeftToAnotherRank };

  // dr = residual_gradient (absent: zero) + the gradient through the norm. Adds to the weight's
  // gradient.
  absl::Status Backward(Execution& execution, ConstMatrixView dy, ConstMatrixView r,
                        ConstVectorView inverse_rms, ConstMatrixView residual_gradient,
                        MatrixView dr, WeightGradient weight_gradient = WeightGradient::kAdded);

  void AppendParameters(std::vector<LayerParameter*>& parameters) {
    parameters.push_back(&weight_);
  }

 private:
  LayerParameter weight_;
  double epsilon_;
};

}  // namespace plait
