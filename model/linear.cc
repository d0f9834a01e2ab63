#include "model/linear.h"

#include "base/status_macros.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"

namespace plait {

Linear::Linear(const std::string& name, int64_t out_dim, int64_t in_dim, Bias bias, DType dtype,
               Initialization initialization, const TensorCut& cut)
    : adds_bias_(cut.split != TensorSplit::kRow || cut.rank == 0) {
  const MeshGroup whole = MeshGroup::kSequence;
  weight_ = {{.name = name + ".weight", .shape = {out_dim, in_dim}, .dtype = dtype, .group = whole},
             initialization};
  if (bias == Bias::kYes) {
    bias_ = {{.name = name + ".bias",
              .shape = {out_dim},
              .dtype = StatisticsDType(dtype),
              .group = whole},
             {}};
  }
  if (cut.split == TensorSplit::kColumn) {
    Cut(weight_.parameter, 0, cut.segments, cut.rank, cut.ranks);
    if (bias == Bias::kYes) Cut(bias_.parameter, 0, cut.segments, cut.rank, cut.ranks);
  } else if (cut.split == TensorSplit::kRow) {
    Cut(weight_.parameter, 1, 1, cut.rank, cut.ranks);
  }
}

absl::Status Linear::Forward(Execution& execution, ConstMatrixView x, MatrixView y) const {
  const Tensor& weight = weight_.parameter.value;
  const Tensor& bias = bias_.parameter.value;
  return Annotate(
      Matmul(execution, {.a = x,
                         .b = weight.matrix(),
                         .transpose_b = Transpose::kYes,
                         .c = y,
                         .bias = bias && adds_bias_ ? bias.vector() : ConstVectorView()}),
      weight_.parameter.name);
}

absl::Status Linear::InputGradient(Execution& execution, ConstMatrixView dy, MatrixView dx,
                                   Accumulate accumulate) const {
  const Tensor& weight = weight_.parameter.value;
  return Annotate(
      Matmul(execution, {.a = dy, .b = weight.matrix(), .c = dx, .accumulate = accumulate}),
      weight_.parameter.name);
}

absl::Status Linear::WeightGradient(Execution& execution, ConstMatrixView dy, ConstMatrixView x) {
  PLAIT_RETURN_IF_ERROR(Annotate(Matmul(execution, {.a = dy,
                                                    .b = x,
                                                    .transpose_a = Transpose::kYes,
                                                    .c = weight_.parameter.gradient.matrix(),
                                                    .accumulate = Accumulate::kYes}),
                                 weight_.parameter.name));
  if (!bias_.parameter.gradient || !adds_bias_) return absl::OkStatus();
  return Annotate(ColumnSum(execution, {.x = dy, .sums = bias_.parameter.gradient.vector()}),
                  bias_.parameter.name);
}

void Linear::AppendParameters(std::vector<LayerParameter*>& parameters) {
  parameters.push_back(&weight_);
  if (bias_.parameter.shape.rank() > 0) parameters.push_back(&bias_);
}

}  // namespace plait
