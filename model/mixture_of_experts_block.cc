#include "model/mixture_of_experts_block.h"

#include <utility>

#include "base/status_macros.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/expert_routing.h"
#include "kernels/gated_activation.h"
#include "kernels/grouped_matmul.h"
#include "model/feed_forward_block.h"

namespace plait {
namespace {

double At(const Tensor& tensor, int64_t i) {
  return tensor.dtype() == DType::kF64 ? tensor.data<double>()[i]
                                       : static_cast<double>(tensor.data<float>()[i]);
}

void Put(Tensor& tensor, int64_t i, double value) {
  if (tensor.dtype() == DType::kF64) {
    tensor.data<double>()[i] = value;
  } else {
    tensor.data<float>()[i] = static_cast<float>(value);
  }
}

// rows[i] = table[index[i]].
absl::StatusOr<Tensor> GatherRows(Execution& execution, const Tensor& table, const Tensor& index) {
  Tensor rows = execution.Empty(table.dtype(), {index.num_elements(), table.shape()[1]});
  PLAIT_RETURN_IF_ERROR(EmbeddingForward(
      execution, {.ids = index.data<int32_t>(), .table = table.matrix(), .y = rows.matrix()}));
  return rows;
}

// The experts' weights, [experts, out, in], as one matrix of experts x out rows.
ConstMatrixView Stacked(const Tensor& weight) { return weight.matrix(); }

}  // namespace

MixtureOfExpertsBlock::MixtureOfExpertsBlock(const ModelShape& shape, const std::string& layer_name,
                                             DType dtype, const DeviceMesh&)
    : name_(FeedForwardName(shape, layer_name)),
      keep_output_(shape.activation_loss_coefficient > 0 && shape.activation_loss_on_block_output),
      keep_expert_rows_(shape.activation_loss_coefficient > 0 &&
                        shape.activation_loss_on_expert_output),
      model_dim_(shape.model_dim),
      hidden_dim_(shape.hidden_dim),
      experts_(shape.experts),
      experts_per_token_(shape.experts_per_token),
      norm_(FeedForwardNormName(shape, layer_name), model_dim_, shape.rms_norm_epsilon, dtype),
      router_(name_ + ".router", experts_, model_dim_, Bias::kNo, dtype,
              {Initialization::Kind::kNormal, shape.initializer_range}) {
  const Initialization normal{Initialization::Kind::kNormal, shape.initializer_range};
  gate_up_ = {{.name = name_ + ".experts.gate_up_proj",
               .shape = {experts_, 2 * hidden_dim_, model_dim_},
               .dtype = dtype},
              normal};
  down_ = {{.name = name_ + ".experts.down_proj",
            .shape = {experts_, model_dim_, hidden_dim_},
            .dtype = dtype},
           normal};
}

std::vector<LayerParameter*> MixtureOfExpertsBlock::parameters() {
  std::vector<LayerParameter*> parameters;
  norm_.AppendParameters(parameters);
  router_.AppendParameters(parameters);
  parameters.push_back(&gate_up_);
  parameters.push_back(&down_);
  return parameters;
}

const Routing* MixtureOfExpertsBlock::routing(const Saved& saved) const {
  return &static_cast<const ExpertsSaved&>(saved).routing;
}

absl::StatusOr<Routing> MixtureOfExpertsBlock::Route(Execution& execution, const Tensor& y) const {
  const int64_t tokens = y.shape()[0], rows = tokens * experts_per_token_;
  const DType dtype = StatisticsDType(y.dtype());
  Tensor logits = execution.Empty(dtype, {tokens, experts_});
  PLAIT_RETURN_IF_ERROR(router_.Forward(execution, y.matrix(), logits.matrix()));
  Routing routing{.probabilities = execution.Empty(dtype, {tokens, experts_}),
                  .weights = execution.Empty(dtype, {tokens, experts_per_token_}),
                  .choices = execution.Empty(DType::kI32, {tokens, experts_per_token_}),
                  .log_sum_exp = execution.Empty(dtype, {tokens}),
                  .offsets = execution.Empty(DType::kI32, {experts_ + 1}),
                  .row_token = execution.Empty(DType::kI32, {rows}),
                  .token_row = execution.Empty(DType::kI32, {tokens, experts_per_token_}),
                  .output_statistics = {}};
  PLAIT_RETURN_IF_ERROR(
      Annotate(RouterForward(execution, {.logits = logits.matrix(),
                                         .experts_per_token = experts_per_token_,
                                         .probabilities = routing.probabilities.matrix(),
                                         .weights = routing.weights.matrix(),
                                         .choices = routing.choices.data<int32_t>(),
                                         .log_sum_exp = routing.log_sum_exp.vector()}),
               name_));
  PLAIT_RETURN_IF_ERROR(
      Annotate(ExpertPermutation(execution, {.choices = routing.choices.data<int32_t>(),
                                             .tokens = tokens,
                                             .experts_per_token = experts_per_token_,
                                             .experts = experts_,
                                             .offsets = routing.offsets.data<int32_t>(),
                                             .row_token = routing.row_token.data<int32_t>(),
                                             .token_row = routing.token_row.data<int32_t>()}),
               name_));
  return routing;
}

Tensor MixtureOfExpertsBlock::RowWeights(Execution& execution, const Routing& routing) const {
  Tensor weights = execution.Empty(routing.weights.dtype(), {routing.row_token.num_elements()});
  const int32_t* token_row = routing.token_row.data<int32_t>();
  for (int64_t i = 0; i < weights.num_elements(); ++i)
    Put(weights, token_row[i], At(routing.weights, i));
  return weights;
}

absl::Status MixtureOfExpertsBlock::Forward(Execution& execution,
                                            const BlockForwardContext& context,
                                            ResidualStream& stream, std::unique_ptr<Saved>* saved) {
  auto keep = saved != nullptr ? std::make_unique<ExpertsSaved>() : nullptr;
  PLAIT_ASSIGN_OR_RETURN(const Tensor y,
                         norm_.Forward(execution, context, stream, keep ? &keep->norm : nullptr));
  Routing routing;
  if (context.routing != nullptr) {
    routing = *context.routing;
  } else {
    PLAIT_ASSIGN_OR_RETURN(routing, Route(execution, y));
  }
  const int64_t rows = routing.row_token.num_elements();
  const int32_t* offsets = routing.offsets.data<int32_t>();

  Tensor gate_up = execution.Empty(y.dtype(), {rows, 2 * hidden_dim_});
  PLAIT_RETURN_IF_ERROR(
      Annotate(GroupedMatmul(execution, {.a = y.matrix(),
                                         .row_index = routing.row_token.data<int32_t>(),
                                         .offsets = offsets,
                                         .groups = experts_,
                                         .b = Stacked(gate_up_.parameter.value),
                                         .transpose_b = Transpose::kYes,
                                         .c = gate_up.matrix()}),
               gate_up_.parameter.name));
  const Tensor row_weights = RowWeights(execution, routing);
  Tensor activated = execution.Empty(y.dtype(), {rows, hidden_dim_});
  PLAIT_RETURN_IF_ERROR(
      Annotate(GatedActivationForward(execution, {.gate = gate_up.columns(0, hidden_dim_),
                                                  .up = gate_up.columns(hidden_dim_, hidden_dim_),
                                                  .row_weight = row_weights.vector(),
                                                  .out = activated.matrix()}),
               name_));
  Tensor expert_rows = execution.Empty(y.dtype(), {rows, model_dim_});
  PLAIT_RETURN_IF_ERROR(Annotate(GroupedMatmul(execution, {.a = activated.matrix(),
                                                           .offsets = offsets,
                                                           .groups = experts_,
                                                           .b = Stacked(down_.parameter.value),
                                                           .transpose_b = Transpose::kYes,
                                                           .c = expert_rows.matrix()}),
                                 down_.parameter.name));
  stream.delta = execution.Empty(y.dtype(), stream.residual.shape());
  PLAIT_RETURN_IF_ERROR(
      Annotate(CombineRows(execution, {.rows = expert_rows.matrix(),
                                       .token_row = routing.token_row.data<int32_t>(),
                                       .experts_per_token = experts_per_token_,
                                       .out = stream.delta.matrix()}),
               name_));
  if (keep) {
    if (context.routing == nullptr) {
      // Before the router weight: the rows' statistics divided by it.
      RowStatisticsPair& statistics = routing.output_statistics;
      statistics = {execution.Empty(row_weights.dtype(), {rows}),
                    execution.Empty(row_weights.dtype(), {rows})};
      PLAIT_RETURN_IF_ERROR(
          RowStatistics(execution, {.x = expert_rows.matrix(),
                                    .square_sum = statistics.square_sum.vector(),
                                    .absolute_max = statistics.absolute_max.vector()}));
      for (int64_t i = 0; i < rows; ++i) {
        const double weight = At(row_weights, i);
        Put(statistics.square_sum, i, At(statistics.square_sum, i) / (weight * weight));
        Put(statistics.absolute_max, i, At(statistics.absolute_max, i) / weight);
      }
    }
    keep->residual_sum = stream.residual;
    if (keep_output_) keep->output = stream.delta;
    if (keep_expert_rows_) keep->expert_rows = std::move(expert_rows);
    keep->routing = std::move(routing);
    keep->gate_up = std::move(gate_up);
    *saved = std::move(keep);
  }
  return absl::OkStatus();
}

absl::StatusOr<Tensor> MixtureOfExpertsBlock::RowGradients(Execution& execution,
                                                           const BlockBackwardContext& context,
                                                           const Tensor& dout,
                                                           const ExpertsSaved& saved) const {
  PLAIT_ASSIGN_OR_RETURN(Tensor drows, GatherRows(execution, dout, saved.routing.row_token));
  if (context.factors.expert_output == 0) return drows;
  // The loss adds 2 x factor x o to the gradient of an expert's output o = row / weight; divided by
  // the weight once more.
  Tensor scale = RowWeights(execution, saved.routing);
  const int32_t* row_token = saved.routing.row_token.data<int32_t>();
  for (int64_t i = 0; i < scale.num_elements(); ++i) {
    const double weight = At(scale, i);
    Put(scale, i, At(context.layout->real, row_token[i]) / (weight * weight));
  }
  PLAIT_RETURN_IF_ERROR(ScaledAdd(execution, {.a = drows.matrix(),
                                              .b = saved.expert_rows.matrix(),
                                              .scale = 2 * context.factors.expert_output,
                                              .row_scale = scale.vector(),
                                              .out = drows.matrix()}));
  return drows;
}

absl::StatusOr<Tensor> MixtureOfExpertsBlock::Backward(Execution& execution,
                                                       const BlockBackwardContext& context,
                                                       const Tensor& gradient, const Saved& base) {
  const auto& saved = static_cast<const ExpertsSaved&>(base);
  const Routing& routing = saved.routing;
  const DType dtype = gradient.dtype(), statistics = StatisticsDType(dtype);
  const int64_t tokens = gradient.shape()[0], rows = routing.row_token.num_elements();
  const int32_t* offsets = routing.offsets.data<int32_t>();
  const ConstMatrixView gate = saved.gate_up.columns(0, hidden_dim_);
  const ConstMatrixView up = saved.gate_up.columns(hidden_dim_, hidden_dim_);
  PLAIT_ASSIGN_OR_RETURN(const Tensor dout,
                         norm_.OutputGradient(execution, context, gradient, saved.output));
  PLAIT_ASSIGN_OR_RETURN(const Tensor drows, RowGradients(execution, context, dout, saved));
  const Tensor row_weights = RowWeights(execution, routing);

  // down_proj: its input is formed again from gate and up.
  Tensor activated = execution.Empty(dtype, {rows, hidden_dim_});
  PLAIT_RETURN_IF_ERROR(Annotate(
      GatedActivationForward(
          execution,
          {.gate = gate, .up = up, .row_weight = row_weights.vector(), .out = activated.matrix()}),
      name_));
  PLAIT_RETURN_IF_ERROR(
      Annotate(GroupedWeightGradient(execution, {.a = drows.matrix(),
                                                 .b = activated.matrix(),
                                                 .offsets = offsets,
                                                 .groups = experts_,
                                                 .c = down_.parameter.gradient.matrix()}),
               down_.parameter.name));
  Tensor& dactivated = activated;  // the same memory: the activation is not needed any more
  PLAIT_RETURN_IF_ERROR(Annotate(GroupedMatmul(execution, {.a = drows.matrix(),
                                                           .offsets = offsets,
                                                           .groups = experts_,
                                                           .b = Stacked(down_.parameter.value),
                                                           .c = dactivated.matrix()}),
                                 down_.parameter.name));

  // The gate, the router weight, gate_up_proj.
  Tensor dgate_up = execution.Empty(dtype, {rows, 2 * hidden_dim_});
  Tensor drow_weights = execution.Empty(statistics, {rows});
  PLAIT_RETURN_IF_ERROR(Annotate(
      GatedActivationBackward(execution, {.gate = gate,
                                          .up = up,
                                          .row_weight = row_weights.vector(),
                                          .dout = dactivated.matrix(),
                                          .dgate = dgate_up.columns(0, hidden_dim_),
                                          .dup = dgate_up.columns(hidden_dim_, hidden_dim_),
                                          .drow_weight = drow_weights.vector()}),
      name_));
  PLAIT_ASSIGN_OR_RETURN(const Tensor y, norm_.Recompute(execution, saved.residual_sum));
  PLAIT_RETURN_IF_ERROR(
      Annotate(GroupedWeightGradient(execution, {.a = dgate_up.matrix(),
                                                 .b = y.matrix(),
                                                 .row_index = routing.row_token.data<int32_t>(),
                                                 .offsets = offsets,
                                                 .groups = experts_,
                                                 .c = gate_up_.parameter.gradient.matrix()}),
               gate_up_.parameter.name));
  Tensor dy_rows = execution.Empty(dtype, {rows, model_dim_});
  PLAIT_RETURN_IF_ERROR(Annotate(GroupedMatmul(execution, {.a = dgate_up.matrix(),
                                                           .offsets = offsets,
                                                           .groups = experts_,
                                                           .b = Stacked(gate_up_.parameter.value),
                                                           .c = dy_rows.matrix()}),
                                 gate_up_.parameter.name));
  Tensor dy = execution.Empty(statistics, {tokens, model_dim_});
  PLAIT_RETURN_IF_ERROR(
      Annotate(CombineRows(execution, {.rows = dy_rows.matrix(),
                                       .token_row = routing.token_row.data<int32_t>(),
                                       .experts_per_token = experts_per_token_,
                                       .out = dy.matrix()}),
               name_));

  // The router. With the activation loss on expert outputs, drow_weights also holds that loss's
  // inner product with the output, which does not depend on the router weight: 2 x factor x |o|^2 /
  // weight, taken off again.
  Tensor dweights = execution.Empty(statistics, {tokens, experts_per_token_});
  const int32_t* token_row = routing.token_row.data<int32_t>();
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t row = token_row[i];
    double value = At(drow_weights, row);
    if (context.factors.expert_output != 0) {
      const double real = At(context.layout->real, i / experts_per_token_);
      value -= real * 2 * context.factors.expert_output *
               At(routing.output_statistics.square_sum, row) / At(row_weights, row);
    }
    Put(dweights, i, value);
  }
  Tensor dlogits = execution.Empty(statistics, {tokens, experts_});
  const Tensor& balance_gradient = context.factors.balance_gradient;
  PLAIT_RETURN_IF_ERROR(Annotate(
      RouterBackward(execution, {.probabilities = routing.probabilities.matrix(),
                                 .choices = routing.choices.data<int32_t>(),
                                 .dweights = dweights.matrix(),
                                 .real = context.layout->real.vector(),
                                 .balance_gradient = balance_gradient ? balance_gradient.vector()
                                                                      : ConstVectorView(),
                                 .z_coefficient = context.factors.z,
                                 .log_sum_exp = routing.log_sum_exp.vector(),
                                 .dlogits = dlogits.matrix()}),
      name_));
  PLAIT_RETURN_IF_ERROR(router_.WeightGradient(execution, dlogits.matrix(), y.matrix()));
  PLAIT_RETURN_IF_ERROR(
      router_.InputGradient(execution, dlogits.matrix(), dy.matrix(), Accumulate::kYes));
  return norm_.Backward(execution, context, gradient, dy, saved.residual_sum, saved.norm);
}

}  // namespace plait
