#include "model/pre_norm.h"

#include <utility>

#include "base/status_macros.h"
#include "kernels/elementwise.h"

namespace plait {

absl::StatusOr<Tensor> Rounded(Execution& execution, const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  Tensor out = execution.Empty(dtype, x.shape());
  PLAIT_RETURN_IF_ERROR(ScaledAdd(execution, {.b = x.matrix(), .out = out.matrix()}));
  return out;
}

absl::StatusOr<Tensor> PreNorm::OutputGradient(Execution& execution,
                                               const BlockBackwardContext& context,
                                               const Tensor& gradient, const Tensor& output) const {
  if (context.factors.block_output == 0) return gradient;
  Tensor out = execution.Empty(gradient.dtype(), gradient.shape());
  PLAIT_RETURN_IF_ERROR(ScaledAdd(execution, {.a = gradient.matrix(),
                                              .b = output.matrix(),
                                              .scale = 2 * context.factors.block_output,
                                              .row_scale = context.layout->real.vector(),
                                              .out = out.matrix()}));
  return out;
}

absl::StatusOr<Tensor> PreNorm::Backward(Execution& execution, const BlockBackwardContext& context,
                                         const Tensor& gradient, const Tensor& dy,
                                         const Tensor& residual_sum, const Saved& saved) {
  PLAIT_ASSIGN_OR_RETURN(const Tensor rounded, Rounded(execution, dy, gradient.dtype()));
  Tensor dr = execution.Empty(gradient.dtype(), gradient.shape());
  PLAIT_RETURN_IF_ERROR(norm_.Backward(execution, rounded.matrix(), residual_sum.matrix(),
                                       saved.inverse_rms.vector(), gradient.matrix(), dr.matrix()));
  if (context.factors.residual != 0) {
    PLAIT_RETURN_IF_ERROR(ScaledAdd(execution, {.a = dr.matrix(),
                                                .b = residual_sum.matrix(),
                                                .scale = 2 * context.factors.residual,
                                                .row_scale = context.layout->real.vector(),
                                                .out = dr.matrix()}));
  }
  return dr;
}

}  // namespace plait
