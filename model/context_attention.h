// Causal attention of packed documents whose rows the context axis cuts into equal segments, one a
// rank; documents cross the cuts anywhere. Between ranks travel (context_attention_plan.h says who
// computes what):
//   kGather: keys and values of all segments to every rank, forward and again backward; their
//     gradients back as sums over ranks, in f32 (f64 beside f64). Queries and results of half a
//     segment to the mirror rank and back, where that balances the work.
//   kRing: the keys and values that later segments see, from rank to rank, one step ahead of their
//     use; a rank joins partial results in f32, own keys first, then those of nearer segments.
//     Backward their gradients go along, added up rank by rank, and home from the last.
// The ring holds two segments' keys at a time instead of all, and leaves the work unbalanced. With
// one rank either is one call of the kernel. Either way a run repeats itself bit for bit.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "base/tensor.h"
#include "kernels/attention_args.h"
#include "model/context_attention_plan.h"
#include "parallel/communicator.h"

namespace plait {

class ContextAttention {
 public:
  struct Saved {         // What Backward reads. Rows: those of the queries that this rank computed.
    Tensor q;            // [segment, heads x head_dim]
    Tensor k, v;         // [segment, kv_heads x head_dim], the own segment's
    Tensor out;          // [segment, heads x head_dim]
    Tensor log_sum_exp;  // [heads, segment]
  };
  struct Gradients {
    Tensor dq;      // [segment, heads x head_dim]
    Tensor dk, dv;  // [segment, kv_heads x head_dim]
  };

  // heads: its heads, kv_heads, head_dim and scale count. context: outlives this object.
  ContextAttention(Communicator& context, ContextExchange exchange, const AttentionLayout& heads)
      : context_(context), exchange_(exchange), heads_(heads) {}

  // q: [segment, heads x head_dim]; k and v: [segment, kv_heads x head_dim], after rotation.
  // document_offsets: [documents + 1] of all segments together, the same on all ranks. Returns out,
  // shape and dtype of q. saved == nullptr keeps nothing. Collective over the context axis.
  absl::StatusOr<Tensor> Forward(Execution& execution, std::span<const int32_t> document_offsets,
                                 const Tensor& q, const Tensor& k, const Tensor& v,
                                 Saved* saved) const;

  // dout: [segment, heads x head_dim]. Returns the gradients in its dtype. Collective.
  absl::StatusOr<Gradients> Backward(Execution& execution,
                                     std::span<const int32_t> document_offsets, const Tensor& dout,
                                     const Saved& saved) const;

 private:
  AttentionLayout Layout(const QueryRange& range) const;
  // All segments' rows.
  absl::StatusOr<Tensor> Gathered(Execution& execution, const Tensor& rows) const;
  // This rank's part of the sum of all ranks' rows, rounded to `dtype`.
  absl::StatusOr<Tensor> Scattered(Execution& execution, const Tensor& rows, DType dtype) const;
  // The first half of `rows` and the mirror's second half. Twice gives the rows themselves.
  absl::StatusOr<Tensor> Swapped(Execution& execution, const ContextAttentionPlan& plan,
                                 const Tensor& rows) const;

  absl::StatusOr<Tensor> GatherForward(Execution& execution, const ContextAttentionPlan& plan,
                                       Saved& saved) const;
  absl::StatusOr<Gradients> GatherBackward(Execution& execution, const ContextAttentionPlan& plan,
                                           const Tensor& dout, const Saved& saved) const;
  absl::StatusOr<Tensor> RingForward(Execution& execution, const ContextAttentionPlan& plan,
                                     Saved& saved) const;
  absl::StatusOr<Gradients> RingBackward(Execution& execution, const ContextAttentionPlan& plan,
                                         const Tensor& dout, const Saved& saved) const;

  Communicator& context_;
  ContextExchange exchange_;
  AttentionLayout heads_;
};

}  // namespace plait
