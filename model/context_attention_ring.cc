// The ring of context_attention.h. In step s a rank has the keys and values of the segment s before
// its own. A parcel is [2 x keys, kv_heads x head_dim]: keys, then values. Messages of two
// neighbours keep their order, so the order of the calls matters: a step first receives the
// gradients that the rank before sent at the end of its step, then its next keys. A send may wait
// for its receive: up the ranks nothing waits in a circle; what goes down, home, goes at the end.
#include <utility>

#include "base/status_macros.h"
#include "kernels/attention.h"
#include "kernels/attention_merge.h"
#include "model/context_attention.h"
#include "model/pre_norm.h"
#include "model/row_arithmetic.h"

namespace plait {
namespace {

Tensor FirstHalf(const Tensor& parcel) { return parcel.Slice(0, parcel.shape()[0] / 2); }
Tensor SecondHalf(const Tensor& parcel) {
  return parcel.Slice(parcel.shape()[0] / 2, parcel.shape()[0]);
}

// Keys and values on their way from rank to rank, one step ahead of their use.
class Ring {
 public:
  Ring(Communicator& context, const ContextAttentionPlan& plan) : context_(context), plan_(plan) {}

  int segment() const { return context_.rank() - step_; }
  int step() const { return step_; }
  // The own segment's in step 0, where later segments see any.
  const Tensor& parcel() const { return parcel_; }
  // Whether a parcel for the next step is on its way.
  bool goes_on() const { return static_cast<bool>(next_); }
  // Whether the rank after this one sees the segment's keys too.
  bool passes_on() const { return Visits(segment()) > step_; }

  absl::Status Pack(Execution& execution, const Tensor& k, const Tensor& v) {
    if (!passes_on()) return absl::OkStatus();
    const int64_t begin = plan_.Shared(segment()).begin - segment() * plan_.segment_tokens();
    parcel_ = execution.Empty(k.dtype(), ParcelShape(segment(), k));
    PLAIT_RETURN_IF_ERROR(
        CopyTo(execution, k.Slice(begin, plan_.segment_tokens()), FirstHalf(parcel_)));
    return CopyTo(execution, v.Slice(begin, plan_.segment_tokens()), SecondHalf(parcel_));
  }

  // Passes the parcel on and begins to receive the next. like: a tensor of its dtype and width.
  absl::Status BeginStep(Execution& execution, const Tensor& like) {
    std::vector<Communicator::Sending> sends;
    std::vector<Communicator::Receiving> receives;
    if (passes_on()) sends.push_back({parcel_.vector(), context_.rank() + 1});
    if (segment() > 0 && Visits(segment() - 1) > step_) {
      next_ = execution.Empty(like.dtype(), ParcelShape(segment() - 1, like));
      receives.push_back({next_.vector(), context_.rank() - 1});
    }
    PLAIT_ASSIGN_OR_RETURN(
        passed_, context_.SendAndReceive(execution.communication_after_compute(), sends, receives));
    return absl::OkStatus();
  }

  absl::Status EndStep(Execution& execution) {
    PLAIT_RETURN_IF_ERROR(execution.compute().Wait(passed_));
    passed_ = Event();
    parcel_ = std::exchange(next_, Tensor());
    ++step_;
    return absl::OkStatus();
  }

  Shape ParcelShape(int segment, const Tensor& like) const {
    const int64_t end = (segment + 1) * plan_.segment_tokens();
    return {2 * (end - plan_.Shared(segment).begin), like.shape()[1]};
  }
  int Visits(int segment) const { return plan_.Shared(segment).visits; }

 private:
  Communicator& context_;
  const ContextAttentionPlan& plan_;
  int step_ = 0;
  Tensor parcel_, next_;
  Event passed_;
};

// One document whose queries all see all keys of an earlier segment.
struct EarlierKeys {
  EarlierKeys(const AttentionLayout& heads, int64_t queries, int64_t keys)
      : query_offsets{0, static_cast<int32_t>(queries)},
        key_offsets{0, static_cast<int32_t>(keys)},
        layout(heads) {
    layout.documents = 1;
    layout.query_offsets = query_offsets;
    layout.key_offsets = key_offsets;
    layout.mask = AttentionMask::kNone;
  }
  EarlierKeys(const EarlierKeys&) = delete;

  int32_t query_offsets[2], key_offsets[2];
  AttentionLayout layout;
};

}  // namespace

absl::StatusOr<Tensor> ContextAttention::RingForward(Execution& execution,
                                                     const ContextAttentionPlan& plan,
                                                     Saved& saved) const {
  const DType dtype = saved.q.dtype(), statistics = StatisticsDType(dtype);
  const int64_t open = plan.OpenQueries(context_.rank());
  Tensor out = execution.Empty(open > 0 ? statistics : dtype, saved.q.shape());
  const Tensor q = saved.q.Slice(0, open);
  Tensor open_out = out.Slice(0, open);
  Ring ring(context_, plan);
  PLAIT_RETURN_IF_ERROR(ring.Pack(execution, saved.k, saved.v));
  for (bool goes_on = true; goes_on;) {
    PLAIT_RETURN_IF_ERROR(ring.BeginStep(execution, saved.k));
    if (ring.step() == 0) {
      const QueryRange own = plan.Own(context_.rank());
      PLAIT_RETURN_IF_ERROR(
          AttentionForward(execution, {.layout = Layout(own),
                                       .q = saved.q.matrix(),
                                       .k = saved.k.matrix(),
                                       .v = saved.v.matrix(),
                                       .out = out.matrix(),
                                       .log_sum_exp = saved.log_sum_exp.matrix()}));
    } else {
      const Tensor k = FirstHalf(ring.parcel()), v = SecondHalf(ring.parcel());
      const EarlierKeys earlier(heads_, open, k.shape()[0]);
      Tensor added = execution.Empty(statistics, q.shape());
      Tensor log_sum_exp = execution.Empty(statistics, {heads_.heads, open});
      PLAIT_RETURN_IF_ERROR(AttentionForward(execution, {.layout = earlier.layout,
                                                         .q = q.matrix(),
                                                         .k = k.matrix(),
                                                         .v = v.matrix(),
                                                         .out = added.matrix(),
                                                         .log_sum_exp = log_sum_exp.matrix()}));
      PLAIT_RETURN_IF_ERROR(
          AttentionMerge(execution, {.out = open_out.matrix(),
                                     .log_sum_exp = saved.log_sum_exp.columns(0, open),
                                     .added_out = added.matrix(),
                                     .added_log_sum_exp = log_sum_exp.matrix()}));
    }
    goes_on = ring.goes_on();
    PLAIT_RETURN_IF_ERROR(ring.EndStep(execution));
  }
  PLAIT_ASSIGN_OR_RETURN(saved.out, Rounded(execution, out, dtype));
  return saved.out;
}

absl::StatusOr<ContextAttention::Gradients> ContextAttention::RingBackward(
    Execution& execution, const ContextAttentionPlan& plan, const Tensor& dout,
    const Saved& saved) const {
  const DType dtype = dout.dtype(), statistics = StatisticsDType(dtype);
  const int rank = context_.rank();
  const int64_t open = plan.OpenQueries(rank);
  Tensor dq = execution.Empty(open > 0 ? statistics : dtype, saved.q.shape());
  Ring ring(context_, plan);
  const bool is_shared = ring.passes_on();
  Tensor dk = execution.Empty(is_shared ? statistics : dtype, saved.k.shape());
  Tensor dv = execution.Empty(is_shared ? statistics : dtype, saved.v.shape());
  const Tensor q = saved.q.Slice(0, open), out = saved.out.Slice(0, open);
  const Tensor open_dout = dout.Slice(0, open);
  // Under way to the next rank: the last steps' may still be when others begin.
  std::vector<std::pair<Tensor, Event>> sent;
  std::vector<std::pair<Tensor, int>> going_home;  // whole sums, with their ranks
  PLAIT_RETURN_IF_ERROR(ring.Pack(execution, saved.k, saved.v));
  for (bool goes_on = true; goes_on;) {
    Tensor earlier_sum;  // of the gradients from the ranks between the segment's and this one
    Event summed;
    if (ring.step() > 1) {
      earlier_sum = execution.Empty(statistics, ring.parcel().shape());
      PLAIT_ASSIGN_OR_RETURN(summed, context_.Receive(execution.communication_after_compute(),
                                                      earlier_sum.vector(), rank - 1));
    }
    PLAIT_RETURN_IF_ERROR(ring.BeginStep(execution, saved.k));
    if (ring.step() == 0) {
      const QueryRange own = plan.Own(rank);
      PLAIT_RETURN_IF_ERROR(AttentionBackward(execution, {.layout = Layout(own),
                                                          .q = saved.q.matrix(),
                                                          .k = saved.k.matrix(),
                                                          .v = saved.v.matrix(),
                                                          .out = saved.out.matrix(),
                                                          .log_sum_exp = saved.log_sum_exp.matrix(),
                                                          .dout = dout.matrix(),
                                                          .dq = dq.matrix(),
                                                          .dk = dk.matrix(),
                                                          .dv = dv.matrix()}));
    } else {
      const Tensor k = FirstHalf(ring.parcel()), v = SecondHalf(ring.parcel());
      const EarlierKeys earlier(heads_, open, k.shape()[0]);
      Tensor dadded = execution.Empty(statistics, q.shape());
      Tensor dparcel = execution.Empty(statistics, ring.parcel().shape());
      Tensor dkeys = FirstHalf(dparcel), dvalues = SecondHalf(dparcel);
      PLAIT_RETURN_IF_ERROR(
          AttentionBackward(execution, {.layout = earlier.layout,
                                        .q = q.matrix(),
                                        .k = k.matrix(),
                                        .v = v.matrix(),
                                        .out = out.matrix(),
                                        .log_sum_exp = saved.log_sum_exp.columns(0, open),
                                        .dout = open_dout.matrix(),
                                        .dq = dadded.matrix(),
                                        .dk = dkeys.matrix(),
                                        .dv = dvalues.matrix()}));
      PLAIT_RETURN_IF_ERROR(AddTo(execution, dadded, dq.Slice(0, open)));
      if (earlier_sum) {
        PLAIT_RETURN_IF_ERROR(execution.compute().Wait(summed));
        PLAIT_RETURN_IF_ERROR(AddTo(execution, earlier_sum, dparcel));
      }
      if (ring.passes_on()) {
        PLAIT_ASSIGN_OR_RETURN(Event event, context_.Send(execution.communication_after_compute(),
                                                          dparcel.vector(), rank + 1));
        sent.emplace_back(std::move(dparcel), std::move(event));
      } else {
        going_home.emplace_back(std::move(dparcel), ring.segment());
      }
    }
    goes_on = ring.goes_on();
    PLAIT_RETURN_IF_ERROR(ring.EndStep(execution));
  }
  std::vector<Communicator::Sending> sends;
  std::vector<Communicator::Receiving> receives;
  for (const auto& [sum, home] : going_home) sends.push_back({sum.vector(), home});
  Tensor others;
  if (is_shared) {
    const Ring own(context_, plan);
    others = execution.Empty(statistics, own.ParcelShape(rank, saved.k));
    receives.push_back({others.vector(), rank + own.Visits(rank)});
  }
  PLAIT_ASSIGN_OR_RETURN(
      const Event home,
      context_.SendAndReceive(execution.communication_after_compute(), sends, receives));
  PLAIT_RETURN_IF_ERROR(execution.compute().Wait(home));
  if (is_shared) {
    const int64_t end = plan.segment_tokens(), begin = plan.Shared(rank).begin - rank * end;
    PLAIT_RETURN_IF_ERROR(AddTo(execution, FirstHalf(others), dk.Slice(begin, end)));
    PLAIT_RETURN_IF_ERROR(AddTo(execution, SecondHalf(others), dv.Slice(begin, end)));
  }
  for (const auto& [buffer, event] : sent) PLAIT_RETURN_IF_ERROR(execution.compute().Wait(event));
  Gradients gradients;
  PLAIT_ASSIGN_OR_RETURN(gradients.dq, Rounded(execution, dq, dtype));
  PLAIT_ASSIGN_OR_RETURN(gradients.dk, Rounded(execution, dk, dtype));
  PLAIT_ASSIGN_OR_RETURN(gradients.dv, Rounded(execution, dv, dtype));
  return gradients;
}

}  // namespace plait
