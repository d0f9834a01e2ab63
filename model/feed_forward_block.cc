#include "model/feed_forward_block.h"

#include <utility>

#include "base/status_macros.h"
#include "kernels/gated_activation.h"

namespace plait {
namespace {

Initialization Normal(const ModelShape& shape) {
  return {Initialization::Kind::kNormal, shape.initializer_range};
}

}  // namespace

std::string FeedForwardName(const ModelShape& shape, const std::string& layer_name) {
  return layer_name + (shape.family == ModelFamily::kLlama ? ".mlp" : ".feed_forward");
}

std::string FeedForwardNormName(const ModelShape& shape, const std::string& layer_name) {
  return layer_name +
         (shape.family == ModelFamily::kLlama ? ".post_attention_layernorm" : ".pre_ff_layernorm");
}

FeedForwardBlock::FeedForwardBlock(const ModelShape& shape, const std::string& layer_name,
                                   DType dtype, const DeviceMesh& mesh)
    : name_(FeedForwardName(shape, layer_name)),
      keep_output_(shape.activation_loss_coefficient > 0 && shape.activation_loss_on_block_output),
      tensor_(mesh),
      hidden_dim_(tensor_.Share(shape.hidden_dim)),
      norm_(FeedForwardNormName(shape, layer_name), shape.model_dim, shape.rms_norm_epsilon, dtype),
      gate_(name_ + ".gate_proj", shape.hidden_dim, shape.model_dim, Bias::kNo, dtype,
            Normal(shape), tensor_.Column()),
      up_(name_ + ".up_proj", shape.hidden_dim, shape.model_dim, Bias::kNo, dtype, Normal(shape),
          tensor_.Column()),
      down_(name_ + ".down_proj", shape.model_dim, shape.hidden_dim, Bias::kNo, dtype,
            Normal(shape), tensor_.Row()) {}

std::vector<LayerParameter*> FeedForwardBlock::parameters() {
  std::vector<LayerParameter*> parameters;
  norm_.AppendParameters(parameters);
  for (Linear* linear : {&gate_, &up_, &down_}) linear->AppendParameters(parameters);
  return parameters;
}

absl::Status FeedForwardBlock::Forward(Execution& execution, const BlockForwardContext& context,
                                       ResidualStream& stream, std::unique_ptr<Saved>* saved) {
  auto keep = saved != nullptr ? std::make_unique<FeedForwardSaved>() : nullptr;
  PLAIT_ASSIGN_OR_RETURN(const Tensor rows,
                         norm_.Forward(execution, context, stream, keep ? &keep->norm : nullptr));
  PLAIT_ASSIGN_OR_RETURN(const Tensor y, tensor_.Gather(execution, rows));
  const int64_t tokens = y.shape()[0];
  Tensor gate_up = execution.Empty(y.dtype(), {tokens, 2 * hidden_dim_});
  const MatrixView gate = gate_up.columns(0, hidden_dim_),
                   up = gate_up.columns(hidden_dim_, hidden_dim_);
  PLAIT_RETURN_IF_ERROR(gate_.Forward(execution, y.matrix(), gate));
  PLAIT_RETURN_IF_ERROR(up_.Forward(execution, y.matrix(), up));
  Tensor activated = execution.Empty(y.dtype(), {tokens, hidden_dim_});
  PLAIT_RETURN_IF_ERROR(Annotate(
      GatedActivationForward(execution, {.gate = gate, .up = up, .out = activated.matrix()}),
      name_));
  Tensor partial = execution.Empty(y.dtype(), y.shape());
  PLAIT_RETURN_IF_ERROR(down_.Forward(execution, activated.matrix(), partial.matrix()));
  PLAIT_ASSIGN_OR_RETURN(stream.delta, tensor_.ReduceScatter(execution, partial));
  if (keep) {
    keep->residual_sum = stream.residual;
    if (keep_output_) keep->output = stream.delta;
    keep->gate_up = std::move(gate_up);
    *saved = std::move(keep);
  }
  return absl::OkStatus();
}

absl::StatusOr<Tensor> FeedForwardBlock::Backward(Execution& execution,
                                                  const BlockBackwardContext& context,
                                                  const Tensor& gradient, const Saved& base) {
  const auto& saved = static_cast<const FeedForwardSaved&>(base);
  const DType dtype = gradient.dtype();
  PLAIT_ASSIGN_OR_RETURN(const Tensor drows,
                         norm_.OutputGradient(execution, context, gradient, saved.output));
  PLAIT_ASSIGN_OR_RETURN(const Tensor dout, tensor_.Gather(execution, drows));
  const int64_t tokens = dout.shape()[0];
  const ConstMatrixView gate = saved.gate_up.columns(0, hidden_dim_);
  const ConstMatrixView up = saved.gate_up.columns(hidden_dim_, hidden_dim_);
  Tensor dgate_up = execution.Empty(dtype, {tokens, 2 * hidden_dim_});
  const MatrixView dgate = dgate_up.columns(0, hidden_dim_),
                   dup = dgate_up.columns(hidden_dim_, hidden_dim_);
  {
    Tensor activated = execution.Empty(dtype, {tokens, hidden_dim_});
    PLAIT_RETURN_IF_ERROR(Annotate(
        GatedActivationForward(execution, {.gate = gate, .up = up, .out = activated.matrix()}),
        name_));
    PLAIT_RETURN_IF_ERROR(down_.WeightGradient(execution, dout.matrix(), activated.matrix()));
    Tensor& dactivated = activated;  // the same memory: the activation is not needed any more
    PLAIT_RETURN_IF_ERROR(down_.InputGradient(execution, dout.matrix(), dactivated.matrix()));
    PLAIT_RETURN_IF_ERROR(Annotate(
        GatedActivationBackward(
            execution,
            {.gate = gate, .up = up, .dout = dactivated.matrix(), .dgate = dgate, .dup = dup}),
        name_));
  }
  PLAIT_ASSIGN_OR_RETURN(const Tensor rows, norm_.Recompute(execution, saved.residual_sum));
  PLAIT_ASSIGN_OR_RETURN(const Tensor y, tensor_.Gather(execution, rows));
  PLAIT_RETURN_IF_ERROR(gate_.WeightGradient(execution, dgate, y.matrix()));
  PLAIT_RETURN_IF_ERROR(up_.WeightGradient(execution, dup, y.matrix()));
  Tensor dpartial = execution.Empty(StatisticsDType(dtype), y.shape());
  PLAIT_RETURN_IF_ERROR(gate_.InputGradient(execution, dgate, dpartial.matrix()));
  PLAIT_RETURN_IF_ERROR(up_.InputGradient(execution, dup, dpartial.matrix(), Accumulate::kYes));
  PLAIT_ASSIGN_OR_RETURN(const Tensor dy, tensor_.ReduceScatter(execution, dpartial));
  return norm_.Backward(execution, context, gradient, dy, saved.residual_sum, saved.norm);
}

}  // namespace plait
