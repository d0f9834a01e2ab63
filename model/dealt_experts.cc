#include "model/dealt_experts.h"

#include <cstring>
#include <utility>

#include "base/status_macros.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/expert_routing.h"
#include "kernels/indexed_numbers.h"

namespace plait {
namespace {

char* Element(MatrixView view, int64_t row, int64_t column) {
  return static_cast<char*>(view.data) +
         static_cast<size_t>(row * view.row_stride + column) * SizeOf(view.dtype);
}

// to[i] = from[index[i]], whole rows.
absl::Status GatherRows(Execution& execution, ConstMatrixView from, const int32_t* index,
                        MatrixView to) {
  if (to.rows == 0) return absl::OkStatus();
  return EmbeddingForward(execution, {.ids = index, .table = from, .y = to});
}

// The numbers of `dtype` that lie in the columns of `rows` from `column` on, as a column.
absl::StatusOr<MatrixView> NumberColumn(MatrixView rows, int64_t column, DType dtype) {
  const auto width = static_cast<int64_t>(SizeOf(dtype));
  const int64_t stride = rows.row_stride * static_cast<int64_t>(SizeOf(rows.dtype));
  const int64_t begin = column * static_cast<int64_t>(SizeOf(rows.dtype));
  if (stride % width != 0 || begin % width != 0) {
    return absl::UnimplementedError(
        "recipe model.model_dim: odd widths in bf16 are not built for experts that are dealt over "
        "CUDA devices; use an even one");
  }
  return MatrixView{static_cast<char*>(rows.data) + begin, dtype, rows.rows, 1, stride / width};
}

MatrixView AsColumn(const VectorView& v) { return {v.data, v.dtype, v.size, 1, 1}; }
ConstMatrixView AsColumn(const ConstVectorView& v) { return {v.data, v.dtype, v.size, 1, 1}; }

// Weight i into the columns of row (index ? index[i] : i) that begin at `column`.
absl::Status PackWeights(Execution& execution, ConstVectorView weights, const int32_t* index,
                         int64_t column, MatrixView rows) {
  if (execution.device().kind != DeviceKind::kCpu) {
    PLAIT_ASSIGN_OR_RETURN(const MatrixView to, NumberColumn(rows, column, weights.dtype));
    if (index == nullptr) return ScaledAdd(execution, {.b = AsColumn(weights), .out = to});
    Tensor placed = execution.Empty(weights.dtype, {weights.size});
    PLAIT_RETURN_IF_ERROR(
        ScatterNumbers(execution, {.values = weights, .index = index, .out = placed.vector()}));
    return ScaledAdd(execution, {.b = AsColumn(placed.vector()), .out = to});
  }
  const size_t bytes = SizeOf(weights.dtype);
  for (int64_t i = 0; i < weights.size; ++i) {
    std::memcpy(Element(rows, index != nullptr ? index[i] : i, column),
                static_cast<const char*>(weights.data) + static_cast<size_t>(i) * bytes, bytes);
  }
  return absl::OkStatus();
}

// The other way round.
absl::Status UnpackWeights(Execution& execution, Tensor rows, const int32_t* index, int64_t column,
                           VectorView weights) {
  if (execution.device().kind != DeviceKind::kCpu) {
    PLAIT_ASSIGN_OR_RETURN(const MatrixView from,
                           NumberColumn(rows.matrix(), column, weights.dtype));
    if (index == nullptr) return ScaledAdd(execution, {.b = from, .out = AsColumn(weights)});
    Tensor placed = execution.Empty(weights.dtype, {from.rows});
    PLAIT_RETURN_IF_ERROR(ScaledAdd(execution, {.b = from, .out = AsColumn(placed.vector())}));
    return GatherNumbers(execution, {.values = placed.vector(), .index = index, .out = weights});
  }
  const size_t bytes = SizeOf(weights.dtype), width = static_cast<size_t>(rows.shape()[1]);
  const char* data = static_cast<const char*>(rows.raw());
  for (int64_t i = 0; i < weights.size; ++i) {
    const auto row = static_cast<size_t>(index != nullptr ? index[i] : i);
    std::memcpy(static_cast<char*>(weights.data) + static_cast<size_t>(i) * bytes,
                data + (row * width + static_cast<size_t>(column)) * SizeOf(rows.dtype()), bytes);
  }
  return absl::OkStatus();
}

ConstVectorView Part(const Tensor& vector, int64_t first, int64_t size) {
  return vector.Slice(first, first + size).vector();
}

}  // namespace

ExpertFeedForward::Rows DealtExperts::Arrived::View(const ExpertExchange::Plan& plan,
                                                    int64_t model_dim) const {
  return {.x = rows.columns(0, model_dim),
          .row_index = plan.arrival.data<int32_t>(),
          .offsets = plan.offsets.data<int32_t>(),
          .weights = weights.vector()};
}

absl::StatusOr<Tensor> DealtExperts::Weights(Execution& execution, const ExpertExchange::Plan& plan,
                                             const Tensor& arrived, int64_t column) const {
  Tensor weights = execution.Empty(StatisticsDType(arrived.dtype()), {plan.num_received()});
  PLAIT_RETURN_IF_ERROR(
      UnpackWeights(execution, arrived, plan.arrival.data<int32_t>(), column, weights.vector()));
  return weights;
}

absl::Status DealtExperts::Combine(Execution& execution, const Routing& routing,
                                   const ExpertSchedule::Wave& wave, ConstMatrixView rows,
                                   Tensor& out) const {
  const int64_t choices = routing.choices.shape()[1];
  const int64_t first_row = wave.begin * choices;
  return CombineRows(execution, {.rows = rows,
                                 .token_row = routing.token_row.data<int32_t>() + first_row,
                                 .first_row = static_cast<int32_t>(first_row),
                                 .experts_per_token = choices,
                                 .out = out.Slice(wave.begin, wave.end).matrix()});
}

absl::Status DealtExperts::Forward(Execution& execution, const Tensor& y, const Routing& routing,
                                   const Tensor& row_weights, const TakeRows& take, Tensor& out,
                                   std::vector<SavedWave>* saved) const {
  const std::vector<ExpertSchedule::Wave>& waves = routing.schedule->waves();
  const int64_t dim = y.shape()[1], choices = routing.choices.shape()[1];
  const DType dtype = y.dtype();
  if (saved != nullptr) saved->resize(waves.size());

  ExpertExchange::Plan next_plan;
  ExpertExchange::Transfer dispatched, returned;
  const auto dispatch = [&](size_t w) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(next_plan, exchange_.PlanOf(execution, waves[w]));
    const int64_t first = waves[w].begin * choices, rows = waves[w].end * choices - first;
    Tensor message = execution.Empty(dtype, {rows, dim + ElementsOfWeight(dtype)});
    PLAIT_RETURN_IF_ERROR(GatherRows(
        execution, y.matrix(), routing.row_token.data<int32_t>() + first, message.columns(0, dim)));
    PLAIT_RETURN_IF_ERROR(
        PackWeights(execution, Part(row_weights, first, rows), nullptr, dim, message.matrix()));
    PLAIT_ASSIGN_OR_RETURN(dispatched,
                           exchange_.Dispatch(execution, next_plan, std::move(message)));
    return absl::OkStatus();
  };
  const auto receive = [&](const ExpertSchedule::Wave& wave) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(const Tensor rows, returned.Arrived(execution));
    PLAIT_RETURN_IF_ERROR(take(wave.begin * choices, rows));
    return Combine(execution, routing, wave, rows.matrix(), out);
  };

  for (size_t w = 0; w < waves.size(); ++w) {
    if (w == 0) PLAIT_RETURN_IF_ERROR(dispatch(0));
    const ExpertExchange::Plan plan = std::move(next_plan);
    Arrived arrived;
    PLAIT_ASSIGN_OR_RETURN(arrived.rows, dispatched.Arrived(execution));
    if (w + 1 < waves.size()) PLAIT_RETURN_IF_ERROR(dispatch(w + 1));
    PLAIT_ASSIGN_OR_RETURN(arrived.weights, Weights(execution, plan, arrived.rows, dim));
    const ExpertFeedForward::Rows rows = arrived.View(plan, dim);
    PLAIT_ASSIGN_OR_RETURN(Tensor gate_up, experts_.GateUp(execution, rows));
    execution.Poll();
    Tensor results = execution.Empty(dtype, {rows.count(), dim});
    PLAIT_RETURN_IF_ERROR(experts_.Output(execution, rows, gate_up, results.matrix()));
    if (saved != nullptr && waves[w].kept) {
      (*saved)[w] = {.arrived = std::move(arrived.rows), .gate_up = gate_up};
    }
    arrived = {};
    gate_up = Tensor();
    if (w > 0) PLAIT_RETURN_IF_ERROR(receive(waves[w - 1]));
    Tensor message = execution.Empty(dtype, results.shape());
    PLAIT_RETURN_IF_ERROR(
        GatherRows(execution, results.matrix(), plan.place.data<int32_t>(), message.matrix()));
    PLAIT_ASSIGN_OR_RETURN(returned, exchange_.Return(execution, plan, std::move(message)));
    execution.Poll();
  }
  return waves.empty() ? absl::OkStatus() : receive(waves.back());
}

absl::Status DealtExperts::Backward(Execution& execution, const Tensor& y, const Routing& routing,
                                    const Tensor& row_weights, const GiveRows& give,
                                    const std::vector<SavedWave>& saved, Tensor& dy,
                                    Tensor& drow_weights) {
  const std::vector<ExpertSchedule::Wave>& waves = routing.schedule->waves();
  const int64_t dim = y.shape()[1], choices = routing.choices.shape()[1];
  const DType dtype = y.dtype();
  const int64_t weight_elements = ElementsOfWeight(dtype);

  // Of a kept wave the rows' gradients alone travel; else rows and weights before them once more.
  const auto gradient_column = [&](size_t w) {
    return waves[w].kept ? int64_t{0} : dim + weight_elements;
  };
  ExpertExchange::Plan next_plan;
  ExpertExchange::Transfer dispatched;
  const auto dispatch = [&](size_t w) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(next_plan, exchange_.PlanOf(execution, waves[w]));
    const int64_t first = waves[w].begin * choices, rows = waves[w].end * choices - first;
    Tensor message = execution.Empty(dtype, {rows, gradient_column(w) + dim});
    if (!waves[w].kept) {
      PLAIT_RETURN_IF_ERROR(GatherRows(execution, y.matrix(),
                                       routing.row_token.data<int32_t>() + first,
                                       message.columns(0, dim)));
      PLAIT_RETURN_IF_ERROR(
          PackWeights(execution, Part(row_weights, first, rows), nullptr, dim, message.matrix()));
    }
    PLAIT_RETURN_IF_ERROR(give(first, message.columns(gradient_column(w), dim)));
    PLAIT_ASSIGN_OR_RETURN(dispatched,
                           exchange_.Dispatch(execution, next_plan, std::move(message)));
    return absl::OkStatus();
  };

  for (size_t w = 0; w < waves.size(); ++w) {
    const ExpertSchedule::Wave& wave = waves[w];
    if (w == 0) PLAIT_RETURN_IF_ERROR(dispatch(0));
    const ExpertExchange::Plan plan = std::move(next_plan);
    PLAIT_ASSIGN_OR_RETURN(Tensor message, dispatched.Arrived(execution));
    if (w + 1 < waves.size()) PLAIT_RETURN_IF_ERROR(dispatch(w + 1));
    Tensor drows = execution.Empty(dtype, {plan.num_received(), dim});
    PLAIT_RETURN_IF_ERROR(GatherRows(execution,
                                     std::as_const(message).columns(gradient_column(w), dim),
                                     plan.arrival.data<int32_t>(), drows.matrix()));
    Arrived arrived{.rows = wave.kept ? saved[w].arrived : message, .weights = {}};
    message = Tensor();
    PLAIT_ASSIGN_OR_RETURN(arrived.weights, Weights(execution, plan, arrived.rows, dim));
    const ExpertFeedForward::Rows rows = arrived.View(plan, dim);
    Tensor gate_up;
    if (wave.kept) {
      gate_up = saved[w].gate_up;
    } else {
      PLAIT_ASSIGN_OR_RETURN(gate_up, experts_.GateUp(execution, rows));
    }
    execution.Poll();

    Tensor dgate_up;
    ExpertExchange::Transfer returned;
    {
      Tensor dx = execution.Empty(dtype, {plan.num_received(), dim});
      Tensor dweights = execution.Empty(arrived.weights.dtype(), {plan.num_received()});
      PLAIT_ASSIGN_OR_RETURN(
          dgate_up, experts_.InputGradient(execution, rows, gate_up, drows.matrix(), dx.matrix(),
                                           dweights.vector()));
      Tensor results = execution.Empty(dtype, {plan.num_received(), dim + weight_elements});
      PLAIT_RETURN_IF_ERROR(
          GatherRows(execution, dx.matrix(), plan.place.data<int32_t>(), results.columns(0, dim)));
      PLAIT_RETURN_IF_ERROR(PackWeights(execution, dweights.vector(), plan.arrival.data<int32_t>(),
                                        dim, results.matrix()));
      PLAIT_ASSIGN_OR_RETURN(returned, exchange_.Return(execution, plan, std::move(results)));
    }
    execution.Poll();
    PLAIT_RETURN_IF_ERROR(
        experts_.WeightGradient(execution, rows, gate_up, drows.matrix(), dgate_up));
    dgate_up = Tensor();
    PLAIT_ASSIGN_OR_RETURN(const Tensor back, returned.Arrived(execution));
    PLAIT_RETURN_IF_ERROR(Combine(execution, routing, wave, back.columns(0, dim), dy));
    const int64_t first = wave.begin * choices;
    Tensor part = drow_weights.Slice(first, first + back.shape()[0]);
    PLAIT_RETURN_IF_ERROR(UnpackWeights(execution, back, nullptr, dim, part.vector()));
  }
  return absl::OkStatus();
}

}  // namespace plait
