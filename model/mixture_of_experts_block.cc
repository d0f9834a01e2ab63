#include "model/mixture_of_experts_block.h"

#include <initializer_list>
#include <utility>
#include <vector>

#include "base/number_at.h"
#include "base/status_macros.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/expert_routing.h"
#include "kernels/indexed_numbers.h"
#include "model/feed_forward_block.h"

namespace plait {
namespace {

ExpertExchange MakeExchange(const DeviceMesh& mesh, int64_t experts) {
  auto exchange = ExpertExchange::Create(mesh.experts(), experts);
  PLAIT_CHECK(exchange.ok());  // the mesh's rules
  return *std::move(exchange);
}

// values[first .. first + size), sharing storage.
Tensor Part(const Tensor& values, int64_t first, int64_t size) {
  return values.Slice(first, first + size);
}

// All are asked for before the first is waited for.
absl::StatusOr<std::vector<Tensor>> AllToHost(Execution& execution,
                                              std::initializer_list<Tensor> tensors) {
  std::vector<HostCopy> copies;
  for (const Tensor& tensor : tensors) {
    PLAIT_ASSIGN_OR_RETURN(copies.emplace_back(), execution.StartToHost(tensor));
  }
  std::vector<Tensor> on_host;
  for (HostCopy& copy : copies) {
    PLAIT_ASSIGN_OR_RETURN(on_host.emplace_back(), copy.Wait());
  }
  return on_host;
}

// Rows for experts that are all here: gathered from the tokens as they are read.
ExpertFeedForward::Rows RowsHere(const Tensor& y, const Routing& routing,
                                 const Tensor& row_weights) {
  return {.x = y.matrix(),
          .row_index = routing.row_token.data<int32_t>(),
          .offsets = routing.offsets.data<int32_t>(),
          .weights = row_weights.vector()};
}

}  // namespace

MixtureOfExpertsBlock::MixtureOfExpertsBlock(const ModelShape& shape, const std::string& layer_name,
                                             DType dtype, const DeviceMesh& mesh)
    : name_(FeedForwardName(shape, layer_name)),
      keep_output_(shape.activation_loss_coefficient > 0 && shape.activation_loss_on_block_output),
      keep_expert_rows_(shape.activation_loss_coefficient > 0 &&
                        shape.activation_loss_on_expert_output),
      experts_(shape.experts),
      experts_per_token_(shape.experts_per_token),
      wave_tokens_(shape.expert_wave_tokens),
      norm_(FeedForwardNormName(shape, layer_name), shape.model_dim, shape.rms_norm_epsilon, dtype),
      router_(name_ + ".router", experts_, shape.model_dim, Bias::kNo, dtype,
              {Initialization::Kind::kNormal, shape.initializer_range}),
      dealt_(mesh.experts().size() > 1),
      exchange_(MakeExchange(mesh, experts_)),
      feed_forward_(name_, shape, exchange_.first_expert(), exchange_.own_experts(), dtype),
      dealt_experts_(exchange_, feed_forward_) {}

std::vector<LayerParameter*> MixtureOfExpertsBlock::parameters() {
  std::vector<LayerParameter*> parameters;
  norm_.AppendParameters(parameters);
  router_.AppendParameters(parameters);
  feed_forward_.AppendParameters(parameters);
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
                  .offsets = {},
                  .row_token = execution.Empty(DType::kI32, {rows}),
                  .token_row = execution.Empty(DType::kI32, {tokens, experts_per_token_}),
                  .schedule = {},
                  .output_statistics = {}};
  PLAIT_RETURN_IF_ERROR(
      Annotate(RouterForward(execution, {.logits = logits.matrix(),
                                         .experts_per_token = experts_per_token_,
                                         .probabilities = routing.probabilities.matrix(),
                                         .weights = routing.weights.matrix(),
                                         .choices = routing.choices.data<int32_t>(),
                                         .log_sum_exp = routing.log_sum_exp.vector()}),
               name_));
  Tensor offsets = execution.Empty(DType::kI32, {experts_ + 1});
  if (!dealt_) {
    PLAIT_RETURN_IF_ERROR(Sort(execution, 0, tokens, offsets, routing));
    // The one wait of the host inside of a block: how many rows each expert has shapes its
    // products.
    PLAIT_ASSIGN_OR_RETURN(routing.offsets, execution.ToHost(offsets));
    return routing;
  }
  PLAIT_ASSIGN_OR_RETURN(const Tensor choices, execution.ToHost(routing.choices));
  auto schedule =
      exchange_.Schedule(choices.data<int32_t>(), tokens, experts_per_token_, wave_tokens_);
  if (!schedule.ok()) return Annotate(schedule.status(), name_);
  routing.schedule = *std::move(schedule);
  for (const ExpertSchedule::Wave& wave : routing.schedule->waves()) {
    PLAIT_RETURN_IF_ERROR(Sort(execution, wave.begin, wave.end, offsets, routing));
  }
  return routing;
}

absl::Status MixtureOfExpertsBlock::Sort(Execution& execution, int64_t begin, int64_t end,
                                         Tensor& offsets, Routing& routing) const {
  const int64_t first_row = begin * experts_per_token_;
  return Annotate(
      ExpertPermutation(execution, {.choices = routing.choices.data<int32_t>() + first_row,
                                    .tokens = end - begin,
                                    .experts_per_token = experts_per_token_,
                                    .experts = experts_,
                                    .first_token = static_cast<int32_t>(begin),
                                    .first_row = static_cast<int32_t>(first_row),
                                    .offsets = offsets.data<int32_t>(),
                                    .row_token = routing.row_token.data<int32_t>() + first_row,
                                    .token_row = routing.token_row.data<int32_t>() + first_row}),
      name_);
}

absl::StatusOr<Tensor> MixtureOfExpertsBlock::RowWeights(Execution& execution,
                                                         const Routing& routing) const {
  Tensor weights = execution.Empty(routing.weights.dtype(), {routing.row_token.num_elements()});
  PLAIT_RETURN_IF_ERROR(
      Annotate(ScatterNumbers(execution, {.values = routing.weights.vector(),
                                          .index = routing.token_row.data<int32_t>(),
                                          .out = weights.vector()}),
               name_));
  return weights;
}

absl::Status MixtureOfExpertsBlock::OutputStatistics(Execution& execution, int64_t first_row,
                                                     ConstMatrixView rows,
                                                     RowStatisticsPair& statistics) const {
  Tensor square_sum = Part(statistics.square_sum, first_row, rows.rows);
  Tensor absolute_max = Part(statistics.absolute_max, first_row, rows.rows);
  return RowStatistics(
      execution,
      {.x = rows, .square_sum = square_sum.vector(), .absolute_max = absolute_max.vector()});
}

absl::Status MixtureOfExpertsBlock::TakeOutput(Execution& execution, int64_t first_row,
                                               const Tensor& rows, const Tensor& row_weights,
                                               bool observe, ExpertsSaved& keep) const {
  const int64_t count = rows.shape()[0];
  if (observe) {
    PLAIT_RETURN_IF_ERROR(
        OutputStatistics(execution, first_row, rows.matrix(), keep.routing.output_statistics));
  }
  if (!keep_expert_rows_) return absl::OkStatus();
  if (count == row_weights.num_elements()) {
    keep.expert_rows = rows;
    return absl::OkStatus();
  }
  if (!keep.expert_rows) {
    keep.expert_rows = execution.Empty(rows.dtype(), {row_weights.num_elements(), rows.shape()[1]});
  }
  Tensor part = Part(keep.expert_rows, first_row, count);
  return execution.Copy(rows, part);
}

absl::Status MixtureOfExpertsBlock::ForwardExperts(Execution& execution, const Tensor& y,
                                                   const Routing& routing,
                                                   const Tensor& row_weights,
                                                   const DealtExperts::TakeRows& take,
                                                   Tensor& delta, ExpertsSaved* keep) {
  if (dealt_) {
    return Annotate(dealt_experts_.Forward(execution, y, routing, row_weights, take, delta,
                                           keep != nullptr ? &keep->waves : nullptr),
                    name_);
  }
  const ExpertFeedForward::Rows rows = RowsHere(y, routing, row_weights);
  PLAIT_ASSIGN_OR_RETURN(Tensor gate_up, feed_forward_.GateUp(execution, rows));
  Tensor expert_rows = execution.Empty(y.dtype(), {rows.count(), y.shape()[1]});
  PLAIT_RETURN_IF_ERROR(feed_forward_.Output(execution, rows, gate_up, expert_rows.matrix()));
  PLAIT_RETURN_IF_ERROR(
      Annotate(CombineRows(execution, {.rows = expert_rows.matrix(),
                                       .token_row = routing.token_row.data<int32_t>(),
                                       .experts_per_token = experts_per_token_,
                                       .out = delta.matrix()}),
               name_));
  if (keep != nullptr) keep->gate_up = std::move(gate_up);
  return take(0, expert_rows);
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
  PLAIT_ASSIGN_OR_RETURN(const Tensor row_weights, RowWeights(execution, routing));
  const bool observe = keep && context.routing == nullptr;
  if (observe) {
    routing.output_statistics = {execution.Empty(row_weights.dtype(), row_weights.shape()),
                                 execution.Empty(row_weights.dtype(), row_weights.shape())};
  }
  if (keep) keep->routing = routing;
  const auto take = [&](int64_t first_row, const Tensor& rows) {
    return keep ? TakeOutput(execution, first_row, rows, row_weights, observe, *keep)
                : absl::OkStatus();
  };
  stream.delta = execution.Empty(y.dtype(), stream.residual.shape());
  PLAIT_RETURN_IF_ERROR(
      ForwardExperts(execution, y, routing, row_weights, take, stream.delta, keep.get()));
  if (keep) {
    keep->residual_sum = stream.residual;
    if (keep_output_) keep->output = stream.delta;
    *saved = std::move(keep);
  }
  return absl::OkStatus();
}

// The loss adds 2 x factor x o to the gradient of an expert's output o = row / weight; divided by
// the weight once more. On the host: the loss on experts' outputs is seldom asked for.
absl::StatusOr<Tensor> MixtureOfExpertsBlock::OutputScale(Execution& execution,
                                                          const SequenceLayout& layout,
                                                          const Routing& routing,
                                                          const Tensor& row_weights,
                                                          int64_t first_row, int64_t rows) const {
  PLAIT_ASSIGN_OR_RETURN(const std::vector<Tensor> on_host,
                         AllToHost(execution, {row_weights, layout.real, routing.row_token}));
  const Tensor &weights = on_host[0], &real = on_host[1], &row_token = on_host[2];
  Tensor scale = Tensor::OnHost(row_weights.dtype(), {rows});
  for (int64_t i = 0; i < rows; ++i) {
    const double weight = NumberAt(weights, first_row + i);
    SetNumber(scale, i,
              NumberAt(real, row_token.data<int32_t>()[first_row + i]) / (weight * weight));
  }
  return execution.ToDevice(scale);
}

absl::Status MixtureOfExpertsBlock::RowGradients(Execution& execution,
                                                 const BlockBackwardContext& context,
                                                 const Tensor& dout, const ExpertsSaved& saved,
                                                 const Tensor& row_weights, int64_t first_row,
                                                 MatrixView drows) const {
  const int32_t* row_token = saved.routing.row_token.data<int32_t>() + first_row;
  PLAIT_RETURN_IF_ERROR(
      EmbeddingForward(execution, {.ids = row_token, .table = dout.matrix(), .y = drows}));
  if (context.factors.expert_output == 0) return absl::OkStatus();
  PLAIT_ASSIGN_OR_RETURN(const Tensor scale, OutputScale(execution, *context.layout, saved.routing,
                                                         row_weights, first_row, drows.rows));
  return ScaledAdd(execution,
                   {.a = drows,
                    .b = Part(std::as_const(saved.expert_rows), first_row, drows.rows).matrix(),
                    .scale = 2 * context.factors.expert_output,
                    .row_scale = scale.vector(),
                    .out = drows});
}

absl::Status MixtureOfExpertsBlock::BackwardExperts(Execution& execution, const Tensor& y,
                                                    const Tensor& row_weights,
                                                    const DealtExperts::GiveRows& give,
                                                    const ExpertsSaved& saved, Tensor& dy,
                                                    Tensor& drow_weights) {
  const Routing& routing = saved.routing;
  if (dealt_) {
    return Annotate(dealt_experts_.Backward(execution, y, routing, row_weights, give, saved.waves,
                                            dy, drow_weights),
                    name_);
  }
  const ExpertFeedForward::Rows rows = RowsHere(y, routing, row_weights);
  Tensor drows = execution.Empty(y.dtype(), {rows.count(), y.shape()[1]});
  PLAIT_RETURN_IF_ERROR(give(0, drows.matrix()));
  Tensor dgate_up;
  {
    Tensor dy_rows = execution.Empty(y.dtype(), drows.shape());
    PLAIT_ASSIGN_OR_RETURN(
        dgate_up, feed_forward_.InputGradient(execution, rows, saved.gate_up, drows.matrix(),
                                              dy_rows.matrix(), drow_weights.vector()));
    PLAIT_RETURN_IF_ERROR(
        Annotate(CombineRows(execution, {.rows = dy_rows.matrix(),
                                         .token_row = routing.token_row.data<int32_t>(),
                                         .experts_per_token = experts_per_token_,
                                         .out = dy.matrix()}),
                 name_));
  }
  return feed_forward_.WeightGradient(execution, rows, saved.gate_up, drows.matrix(), dgate_up);
}

// With the activation loss on expert outputs, the gradients of the weights also hold that loss's
// inner product with the output, which does not depend on the router weight: 2 x factor x |o|^2 /
// weight, taken off again. On the host, as OutputScale.
absl::StatusOr<Tensor> MixtureOfExpertsBlock::WithoutOutputLoss(Execution& execution,
                                                                const BlockBackwardContext& context,
                                                                const Routing& routing,
                                                                const Tensor& gradients) const {
  PLAIT_ASSIGN_OR_RETURN(
      std::vector<Tensor> on_host,
      AllToHost(execution, {gradients, routing.weights, routing.token_row, context.layout->real,
                            routing.output_statistics.square_sum}));
  Tensor& dweights = on_host[0];
  const Tensor &weights = on_host[1], &token_row = on_host[2], &real = on_host[3],
               &square_sum = on_host[4];
  for (int64_t i = 0; i < dweights.num_elements(); ++i) {
    const double weight = NumberAt(weights, i);
    const double loss = NumberAt(real, i / experts_per_token_) * 2 * context.factors.expert_output *
                        NumberAt(square_sum, token_row.data<int32_t>()[i]) /
                        (weight * weight * weight);
    SetNumber(dweights, i, NumberAt(dweights, i) - loss);
  }
  return execution.ToDevice(dweights);
}

absl::StatusOr<Tensor> MixtureOfExpertsBlock::Backward(Execution& execution,
                                                       const BlockBackwardContext& context,
                                                       const Tensor& gradient, const Saved& base) {
  const auto& saved = static_cast<const ExpertsSaved&>(base);
  const Routing& routing = saved.routing;
  const DType statistics = StatisticsDType(gradient.dtype());
  const int64_t tokens = gradient.shape()[0], rows = routing.row_token.num_elements();
  PLAIT_ASSIGN_OR_RETURN(const Tensor row_weights, RowWeights(execution, routing));
  PLAIT_ASSIGN_OR_RETURN(const Tensor y, norm_.Recompute(execution, saved.residual_sum));
  Tensor dy = execution.Empty(statistics, gradient.shape());
  Tensor drow_weights = execution.Empty(statistics, {rows});
  {
    PLAIT_ASSIGN_OR_RETURN(const Tensor dout,
                           norm_.OutputGradient(execution, context, gradient, saved.output));
    const auto give = [&](int64_t first_row, MatrixView drows) {
      return RowGradients(execution, context, dout, saved, row_weights, first_row, drows);
    };
    PLAIT_RETURN_IF_ERROR(
        BackwardExperts(execution, y, row_weights, give, saved, dy, drow_weights));
  }

  Tensor dweights = execution.Empty(statistics, {tokens, experts_per_token_});
  PLAIT_RETURN_IF_ERROR(
      Annotate(GatherNumbers(execution, {.values = drow_weights.vector(),
                                         .index = routing.token_row.data<int32_t>(),
                                         .out = dweights.vector()}),
               name_));
  if (context.factors.expert_output != 0) {
    PLAIT_ASSIGN_OR_RETURN(dweights, WithoutOutputLoss(execution, context, routing, dweights));
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
