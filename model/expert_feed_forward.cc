#include "model/expert_feed_forward.h"

#include "base/status_macros.h"
#include "kernels/gated_activation.h"
#include "kernels/grouped_matmul.h"

namespace plait {
namespace {

// Experts first .. first + experts of a tensor [all experts, rows, columns].
LayerParameter ExpertTensor(const std::string& name, const Shape& logical_shape, int64_t first,
                            int64_t experts, DType dtype, Initialization initialization) {
  LayerParameter tensor{
      {.name = name, .shape = {experts, logical_shape[1], logical_shape[2]}, .dtype = dtype},
      initialization};
  if (experts < logical_shape[0]) {
    tensor.parameter.group = MeshGroup::kExpertData;
    tensor.parameter.box = ShardSpec::Part(logical_shape, /*dim=*/0, /*segments=*/1,
                                           first / experts, logical_shape[0] / experts);
  }
  return tensor;
}

}  // namespace

ExpertFeedForward::ExpertFeedForward(const std::string& name, const ModelShape& shape,
                                     int64_t first, int64_t experts, DType dtype)
    : name_(name), experts_(experts), model_dim_(shape.model_dim), hidden_dim_(shape.hidden_dim) {
  const Initialization normal{Initialization::Kind::kNormal, shape.initializer_range};
  gate_up_ =
      ExpertTensor(name_ + ".experts.gate_up_proj", {shape.experts, 2 * hidden_dim_, model_dim_},
                   first, experts, dtype, normal);
  down_ = ExpertTensor(name_ + ".experts.down_proj", {shape.experts, model_dim_, hidden_dim_},
                       first, experts, dtype, normal);
}

void ExpertFeedForward::AppendParameters(std::vector<LayerParameter*>& parameters) {
  parameters.push_back(&gate_up_);
  parameters.push_back(&down_);
}

absl::StatusOr<Tensor> ExpertFeedForward::GateUp(Execution& execution, const Rows& rows) const {
  Tensor gate_up = execution.Empty(rows.x.dtype, {rows.count(), 2 * hidden_dim_});
  PLAIT_RETURN_IF_ERROR(Annotate(GroupedMatmul(execution, {.a = rows.x,
                                                           .row_index = rows.row_index,
                                                           .offsets = rows.offsets,
                                                           .groups = experts_,
                                                           .b = gate_up_.parameter.value.matrix(),
                                                           .transpose_b = Transpose::kYes,
                                                           .c = gate_up.matrix()}),
                                 gate_up_.parameter.name));
  return gate_up;
}

absl::StatusOr<Tensor> ExpertFeedForward::Activated(Execution& execution, const Rows& rows,
                                                    const Tensor& gate_up) const {
  Tensor activated = execution.Empty(gate_up.dtype(), {rows.count(), hidden_dim_});
  PLAIT_RETURN_IF_ERROR(
      Annotate(GatedActivationForward(execution, {.gate = gate_up.columns(0, hidden_dim_),
                                                  .up = gate_up.columns(hidden_dim_, hidden_dim_),
                                                  .row_weight = rows.weights,
                                                  .out = activated.matrix()}),
               name_));
  return activated;
}

absl::Status ExpertFeedForward::Output(Execution& execution, const Rows& rows,
                                       const Tensor& gate_up, MatrixView out) const {
  PLAIT_ASSIGN_OR_RETURN(const Tensor activated, Activated(execution, rows, gate_up));
  return Annotate(GroupedMatmul(execution, {.a = activated.matrix(),
                                            .offsets = rows.offsets,
                                            .groups = experts_,
                                            .b = down_.parameter.value.matrix(),
                                            .transpose_b = Transpose::kYes,
                                            .c = out}),
                  down_.parameter.name);
}

absl::StatusOr<Tensor> ExpertFeedForward::InputGradient(Execution& execution, const Rows& rows,
                                                        const Tensor& gate_up,
                                                        ConstMatrixView drows, MatrixView dx,
                                                        VectorView dweights) const {
  Tensor dgate_up = execution.Empty(gate_up.dtype(), {rows.count(), 2 * hidden_dim_});
  {
    Tensor dactivated = execution.Empty(gate_up.dtype(), {rows.count(), hidden_dim_});
    PLAIT_RETURN_IF_ERROR(Annotate(GroupedMatmul(execution, {.a = drows,
                                                             .offsets = rows.offsets,
                                                             .groups = experts_,
                                                             .b = down_.parameter.value.matrix(),
                                                             .c = dactivated.matrix()}),
                                   down_.parameter.name));
    PLAIT_RETURN_IF_ERROR(Annotate(
        GatedActivationBackward(execution, {.gate = gate_up.columns(0, hidden_dim_),
                                            .up = gate_up.columns(hidden_dim_, hidden_dim_),
                                            .row_weight = rows.weights,
                                            .dout = dactivated.matrix(),
                                            .dgate = dgate_up.columns(0, hidden_dim_),
                                            .dup = dgate_up.columns(hidden_dim_, hidden_dim_),
                                            .drow_weight = dweights}),
        name_));
  }
  PLAIT_RETURN_IF_ERROR(Annotate(GroupedMatmul(execution, {.a = dgate_up.matrix(),
                                                           .offsets = rows.offsets,
                                                           .groups = experts_,
                                                           .b = gate_up_.parameter.value.matrix(),
                                                           .c = dx}),
                                 gate_up_.parameter.name));
  return dgate_up;
}

absl::Status ExpertFeedForward::WeightGradient(Execution& execution, const Rows& rows,
                                               const Tensor& gate_up, ConstMatrixView drows,
                                               const Tensor& dgate_up) {
  PLAIT_RETURN_IF_ERROR(
      Annotate(GroupedWeightGradient(execution, {.a = dgate_up.matrix(),
                                                 .b = rows.x,
                                                 .row_index = rows.row_index,
                                                 .offsets = rows.offsets,
                                                 .groups = experts_,
                                                 .c = gate_up_.parameter.gradient.matrix()}),
               gate_up_.parameter.name));
  // The input of down_proj, formed again from gate and up.
  PLAIT_ASSIGN_OR_RETURN(const Tensor activated, Activated(execution, rows, gate_up));
  return Annotate(GroupedWeightGradient(execution, {.a = drows,
                                                    .b = activated.matrix(),
                                                    .offsets = rows.offsets,
                                                    .groups = experts_,
                                                    .c = down_.parameter.gradient.matrix()}),
                  down_.parameter.name);
}

}  // namespace plait
