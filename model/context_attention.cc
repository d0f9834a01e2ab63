#include "model/context_attention.h"

#include <utility>

#include "base/status_macros.h"
#include "kernels/attention.h"
#include "model/pre_norm.h"
#include "model/row_arithmetic.h"

namespace plait {
AttentionLayout ContextAttention::Layout(const QueryRange& range) const {
  AttentionLayout layout = heads_;
  layout.documents = range.documents();
  layout.query_offsets = range.query_offsets.data();
  layout.key_offsets = range.key_offsets.data();
  return layout;
}

absl::StatusOr<Tensor> ContextAttention::Forward(Execution& execution,
                                                 std::span<const int32_t> document_offsets,
                                                 const Tensor& q, const Tensor& k, const Tensor& v,
                                                 Saved* saved) const {
  const ContextAttentionPlan plan(document_offsets, context_.size());
  Saved here{.q = q, .k = k, .v = v};
  here.log_sum_exp =
      execution.Empty(StatisticsDType(q.dtype()), {heads_.heads, plan.segment_tokens()});
  PLAIT_ASSIGN_OR_RETURN(Tensor out, exchange_ == ContextExchange::kRing
                                         ? RingForward(execution, plan, here)
                                         : GatherForward(execution, plan, here));
  if (saved != nullptr) *saved = std::move(here);
  return out;
}

absl::StatusOr<ContextAttention::Gradients> ContextAttention::Backward(
    Execution& execution, std::span<const int32_t> document_offsets, const Tensor& dout,
    const Saved& saved) const {
  const ContextAttentionPlan plan(document_offsets, context_.size());
  return exchange_ == ContextExchange::kRing ? RingBackward(execution, plan, dout, saved)
                                             : GatherBackward(execution, plan, dout, saved);
}

absl::StatusOr<Tensor> ContextAttention::Gathered(Execution& execution, const Tensor& rows) const {
  if (context_.size() == 1) return rows;
  Tensor all = execution.Empty(rows.dtype(), {context_.size() * rows.shape()[0], rows.shape()[1]});
  PLAIT_ASSIGN_OR_RETURN(
      const Event done,
      context_.AllGather(execution.communication_after_compute(), rows.vector(), all.vector()));
  PLAIT_RETURN_IF_ERROR(execution.compute().Wait(done));
  return all;
}

absl::StatusOr<Tensor> ContextAttention::Scattered(Execution& execution, const Tensor& rows,
                                                   DType dtype) const {
  if (context_.size() == 1) return rows;
  Tensor own = execution.Empty(rows.dtype(), {rows.shape()[0] / context_.size(), rows.shape()[1]});
  PLAIT_ASSIGN_OR_RETURN(
      const Event done,
      context_.ReduceScatter(execution.communication_after_compute(), rows.vector(), own.vector()));
  PLAIT_RETURN_IF_ERROR(execution.compute().Wait(done));
  return Rounded(execution, own, dtype);
}

absl::StatusOr<Tensor> ContextAttention::Swapped(Execution& execution,
                                                 const ContextAttentionPlan& plan,
                                                 const Tensor& rows) const {
  const int mirror = plan.Mirror(context_.rank());
  if (!plan.swaps_halves() || mirror == context_.rank()) return rows;
  Tensor swapped = execution.Empty(rows.dtype(), rows.shape());
  const int64_t half = plan.half(), end = plan.segment_tokens();
  const Tensor own = rows.Slice(half, end);
  Tensor other = swapped.Slice(half, end);
  Stream& stream = execution.communication_after_compute();
  const Communicator::Sending send = {own.vector(), mirror};
  const Communicator::Receiving receive = {other.vector(), mirror};
  PLAIT_ASSIGN_OR_RETURN(const Event swap,
                         context_.SendAndReceive(stream, {&send, 1}, {&receive, 1}));
  PLAIT_RETURN_IF_ERROR(CopyTo(execution, rows.Slice(0, half), swapped.Slice(0, half)));
  PLAIT_RETURN_IF_ERROR(execution.compute().Wait(swap));
  return swapped;
}

absl::StatusOr<Tensor> ContextAttention::GatherForward(Execution& execution,
                                                       const ContextAttentionPlan& plan,
                                                       Saved& saved) const {
  PLAIT_ASSIGN_OR_RETURN(const Tensor k, Gathered(execution, saved.k));
  PLAIT_ASSIGN_OR_RETURN(const Tensor v, Gathered(execution, saved.v));
  PLAIT_ASSIGN_OR_RETURN(saved.q, Swapped(execution, plan, saved.q));
  saved.out = execution.Empty(saved.q.dtype(), saved.q.shape());
  int64_t row = 0;
  for (const QueryRange& range : plan.Ranges(context_.rank())) {
    const int64_t begin = row;
    row += range.end - range.begin;
    const Tensor q = saved.q.Slice(begin, row);
    Tensor out = saved.out.Slice(begin, row);
    PLAIT_RETURN_IF_ERROR(AttentionForward(
        execution, {.layout = Layout(range),
                    .q = q.matrix(),
                    .k = k.Slice(range.key_begin, range.end).matrix(),
                    .v = v.Slice(range.key_begin, range.end).matrix(),
                    .out = out.matrix(),
                    .log_sum_exp = saved.log_sum_exp.columns(begin, row - begin)}));
  }
  return Swapped(execution, plan, saved.out);
}

absl::StatusOr<ContextAttention::Gradients> ContextAttention::GatherBackward(
    Execution& execution, const ContextAttentionPlan& plan, const Tensor& dout,
    const Saved& saved) const {
  const DType dtype = dout.dtype();
  PLAIT_ASSIGN_OR_RETURN(const Tensor k, Gathered(execution, saved.k));
  PLAIT_ASSIGN_OR_RETURN(const Tensor v, Gathered(execution, saved.v));
  PLAIT_ASSIGN_OR_RETURN(const Tensor dcomputed, Swapped(execution, plan, dout));
  // One rank's call writes every row, and nothing is to be added.
  const bool alone = context_.size() == 1;
  Tensor dk = alone ? execution.Empty(dtype, k.shape())
                    : execution.Zeros(StatisticsDType(dtype), k.shape());
  Tensor dv = alone ? execution.Empty(dtype, v.shape())
                    : execution.Zeros(StatisticsDType(dtype), v.shape());
  Tensor dq = execution.Empty(dtype, saved.q.shape());
  int64_t row = 0;
  for (const QueryRange& range : plan.Ranges(context_.rank())) {
    const int64_t begin = row;
    row += range.end - range.begin;
    const Tensor q = saved.q.Slice(begin, row), out = saved.out.Slice(begin, row);
    const Tensor keys = k.Slice(range.key_begin, range.end);
    const Tensor values = v.Slice(range.key_begin, range.end);
    const Tensor drange = dcomputed.Slice(begin, row);
    Tensor dq_range = dq.Slice(begin, row);
    Tensor dk_range = dk.Slice(range.key_begin, range.end);
    Tensor dv_range = dv.Slice(range.key_begin, range.end);
    if (begin > 0) {  // keys that the first range's call has written
      dk_range = execution.Empty(dk.dtype(), keys.shape());
      dv_range = execution.Empty(dv.dtype(), values.shape());
    }
    PLAIT_RETURN_IF_ERROR(
        AttentionBackward(execution, {.layout = Layout(range),
                                      .q = q.matrix(),
                                      .k = keys.matrix(),
                                      .v = values.matrix(),
                                      .out = out.matrix(),
                                      .log_sum_exp = saved.log_sum_exp.columns(begin, row - begin),
                                      .dout = drange.matrix(),
                                      .dq = dq_range.matrix(),
                                      .dk = dk_range.matrix(),
                                      .dv = dv_range.matrix()}));
    if (begin > 0) {
      PLAIT_RETURN_IF_ERROR(AddTo(execution, dk_range, dk.Slice(range.key_begin, range.end)));
      PLAIT_RETURN_IF_ERROR(AddTo(execution, dv_range, dv.Slice(range.key_begin, range.end)));
    }
  }
  Gradients gradients;
  PLAIT_ASSIGN_OR_RETURN(gradients.dk, Scattered(execution, dk, dtype));
  PLAIT_ASSIGN_OR_RETURN(gradients.dv, Scattered(execution, dv, dtype));
  PLAIT_ASSIGN_OR_RETURN(gradients.dq, Swapped(execution, plan, dq));
  return gradients;
}

}  // namespace plait
