#include "model/rms_norm.h"

#include "base/status_macros.h"
#include "kernels/rms_norm.h"

namespace plait {

RmsNorm::RmsNorm(const std::string& name, int64_t dim, double epsilon, DType dtype)
    : epsilon_(epsilon) {
  weight_ = {{.name = name + ".weight",
              .shape = {dim},
              .dtype = StatisticsDType(dtype),
              .group = MeshGroup::kSequence},
             {Initialization::Kind::kConstant, 1.0}};
}

absl::StatusOr<Tensor> RmsNorm::Forward(Execution& execution, ResidualStream& stream,
                                        RowStatisticsPair* delta_statistics,
                                        Tensor* inverse_rms) const {
  const Tensor& weight = weight_.parameter.value;
  const bool has_delta = static_cast<bool>(stream.delta);
  const Tensor& x = has_delta ? stream.delta : stream.residual;
  const int64_t tokens = x.shape()[0];
  const DType statistics = StatisticsDType(x.dtype());
  Tensor y = execution.Empty(x.dtype(), x.shape());
  Tensor sum = has_delta ? execution.Empty(x.dtype(), x.shape()) : Tensor();
  RmsNormForwardArgs args{
      .x = x.matrix(), .weight = weight.vector(), .epsilon = epsilon_, .y = y.matrix()};
  if (has_delta) {
    args.residual = stream.residual.matrix();
    args.sum = sum.matrix();
  }
  if (inverse_rms != nullptr) {
    *inverse_rms = execution.Empty(statistics, {tokens});
    args.inverse_rms = inverse_rms->vector();
  }
  if (has_delta && delta_statistics != nullptr) {
    *delta_statistics = {execution.Empty(statistics, {tokens}),
                         execution.Empty(statistics, {tokens})};
    args.activation_square_sum = delta_statistics->square_sum.vector();
    args.activation_absolute_max = delta_statistics->absolute_max.vector();
  }
  PLAIT_RETURN_IF_ERROR(Annotate(RmsNormForward(execution, args), weight_.parameter.name));
  if (has_delta) stream = {.residual = std::move(sum), .delta = {}};
  return y;
}

absl::Status RmsNorm::Forward(Execution& execution, ConstMatrixView x, MatrixView y,
                              VectorView inverse_rms) const {
  return Annotate(RmsNormForward(execution, {.x = x,
                                             .weight = weight_.parameter.value.vector(),
                                             .epsilon = epsilon_,
                                             .y = y,
                                             .inverse_rms = inverse_rms}),
                  weight_.parameter.name);
}

absl::Status RmsNorm::Backward(Execution& execution, ConstMatrixView dy, ConstMatrixView r,
                               ConstVectorView inverse_rms, ConstMatrixView residual_gradient,
                               MatrixView dr, WeightGradient weight_gradient) {
  Tensor dweight = weight_.parameter.gradient;
  if (weight_gradient == WeightGradient::kLeftToAnotherRank) {
    dweight = execution.Zeros(dweight.dtype(), dweight.shape());
  }
  return Annotate(RmsNormBackward(execution, {.dy = dy,
                                              .r = r,
                                              .weight = weight_.parameter.value.vector(),
                                              .inverse_rms = inverse_rms,
                                              .dr_in = residual_gradient,
                                              .dr = dr,
                                              .dweight = dweight.vector()}),
                  weight_.parameter.name);
}

}  // namespace plait
