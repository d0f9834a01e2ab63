#include "model/segment_states.h"

#include <algorithm>

#include "base/status_macros.h"
#include "kernels/causal_convolution.h"
#include "kernels/elementwise.h"
#include "kernels/selective_scan_summary.h"

namespace plait {
namespace {

// Where a document lies in the microbatch: its tokens, and the first and last segment with some.
struct DocumentExtent {
  int64_t begin, end;
  int64_t first_rank, last_rank;
};

DocumentExtent ExtentAt(const SequenceLayout& layout, int64_t token) {
  const std::vector<int32_t>& offsets = layout.microbatch_document_offsets;
  const auto end = std::ranges::upper_bound(offsets, token);
  const int64_t begin = *(end - 1);
  return {begin, *end, begin / layout.tokens, (*end - 1) / layout.tokens};
}

ConstMatrixView Rows(ConstMatrixView view, int64_t begin, int64_t end) {
  view.data = static_cast<const char*>(view.data) +
              begin * view.row_stride * static_cast<int64_t>(SizeOf(view.dtype));
  view.rows = end - begin;
  return view;
}

// Row `to_row` of `to` = row `from_row` of `from`, of the same dtype and width.
absl::Status CopyRow(Execution& execution, const ConstMatrixView& from, int64_t from_row,
                     Tensor& to, int64_t to_row) {
  Tensor place = to.Slice(to_row, to_row + 1);
  return ScaledAdd(execution, {.b = Rows(from, from_row, from_row + 1), .out = place.matrix()});
}

// Zeros for `documents` documents but for `state`, the rows of document `document`.
absl::StatusOr<Tensor> OfDocument(Execution& execution, const Tensor& state, int64_t documents,
                                  int64_t document) {
  const int64_t rows = state.shape()[0];
  Tensor all = execution.Zeros(state.dtype(), {documents * rows, state.shape()[1]});
  Tensor place = all.Slice(document * rows, (document + 1) * rows);
  PLAIT_RETURN_IF_ERROR(execution.Copy(state, place));
  return all;
}

}  // namespace

bool SegmentStates::AnyDocumentCrosses(const SequenceLayout& layout) const {
  for (int64_t rank = 1; rank < ranks_->size(); ++rank) {
    const std::vector<int32_t>& offsets = layout.microbatch_document_offsets;
    if (!std::ranges::binary_search(offsets, rank * layout.tokens)) return true;
  }
  return false;
}

absl::StatusOr<Tensor> SegmentStates::Gather(Execution& execution, const Tensor& own) const {
  Tensor all = execution.Empty(own.dtype(), {ranks_->size() * own.shape()[0], own.shape()[1]});
  PLAIT_ASSIGN_OR_RETURN(
      const Event gathered,
      ranks_->AllGather(execution.communication_after_compute(), own.vector(), all.vector()));
  PLAIT_RETURN_IF_ERROR(execution.compute().Wait(gathered));
  return all;
}

absl::StatusOr<Tensor> SegmentStates::InputsBefore(Execution& execution,
                                                   const SequenceLayout& layout,
                                                   const ConstMatrixView& x, int64_t width) const {
  const int64_t history = width - 1;
  if (history == 0 || !AnyDocumentCrosses(layout)) return Tensor();
  // Every rank's last inputs, the newest in the last row.
  Tensor own = execution.Zeros(x.dtype, {history, x.columns});
  for (int64_t back = 1; back <= std::min(history, x.rows); ++back) {
    PLAIT_RETURN_IF_ERROR(CopyRow(execution, x, x.rows - back, own, history - back));
  }
  PLAIT_ASSIGN_OR_RETURN(const Tensor all, Gather(execution, own));
  if (!layout.begins_inside) return Tensor();
  const int64_t document_begin = ExtentAt(layout, layout.segment_begin).begin;
  Tensor inputs = execution.Zeros(x.dtype, {history, x.columns});
  for (int64_t j = 0; j < history; ++j) {
    const int64_t token = layout.segment_begin - history + j;
    if (token < document_begin) continue;
    const int64_t rank = token / layout.tokens;
    const int64_t back = (rank + 1) * layout.tokens - token;
    PLAIT_RETURN_IF_ERROR(CopyRow(execution, all.matrix(), (rank + 1) * history - back, inputs, j));
  }
  return OfDocument(execution, inputs, layout.documents(), 0);
}

absl::StatusOr<Tensor> SegmentStates::InputGradientsAfter(
    Execution& execution, const SequenceLayout& layout,
    const CausalConvolutionBackwardArgs& convolution) const {
  const int64_t width = convolution.weight.columns, history = width - 1;
  if (history == 0 || !AnyDocumentCrosses(layout)) return Tensor();
  const int64_t channels = convolution.x.columns;
  const DType statistics = StatisticsDType(convolution.x.dtype);
  Tensor own = execution.Zeros(statistics, {history, channels});
  if (layout.begins_inside) {
    // Only the first tokens reach back that far; what else their backward gives is dropped.
    const int64_t count = std::min<int64_t>(history, layout.document_offsets[1]);
    const int32_t offsets[] = {0, static_cast<int32_t>(count)};
    Tensor dx = execution.Empty(convolution.x.dtype, {count, channels});
    Tensor dweight = execution.Zeros(statistics, {channels, width});
    CausalConvolutionBackwardArgs reaching{
        .x = Rows(convolution.x, 0, count),
        .weight = convolution.weight,
        .bias = convolution.bias,
        .documents = 1,
        .document_offsets = offsets,
        .dy = Rows(convolution.dy, 0, count),
        .dx = dx.matrix(),
        .dweight = dweight.matrix(),
        .initial_state = Rows(convolution.initial_state, 0, history),
        .dinitial_state = own.matrix()};
    PLAIT_RETURN_IF_ERROR(CausalConvolutionBackward(execution, reaching));
  }
  PLAIT_ASSIGN_OR_RETURN(const Tensor all, Gather(execution, own));
  if (!layout.ends_inside) return Tensor();
  const int64_t segment_end = layout.segment_begin + layout.tokens;
  const DocumentExtent document = ExtentAt(layout, segment_end - 1);
  const int64_t first = std::max(layout.segment_begin, document.begin);
  Tensor sum = execution.Zeros(statistics, {history, channels});
  for (int64_t rank = ranks_->rank() + 1; rank <= document.last_rank; ++rank) {
    for (int64_t j = 0; j < history; ++j) {
      const int64_t token = rank * layout.tokens - history + j;
      if (token < first || token >= segment_end) continue;
      Tensor row = sum.Slice(history - (segment_end - token), history - (segment_end - token) + 1);
      PLAIT_RETURN_IF_ERROR(
          ScaledAdd(execution, {.a = row.matrix(),
                                .b = Rows(all.matrix(), rank * history + j, rank * history + j + 1),
                                .out = row.matrix()}));
    }
  }
  return OfDocument(execution, sum, layout.documents(), layout.documents() - 1);
}

absl::Status SegmentStates::Carry(Execution& execution, const SelectiveScanInputs& scan,
                                  const Tensor& gathered, int64_t rank, Tensor& state) const {
  const int64_t states = state.shape()[0], row = rank * (states + 1);
  const Tensor local = gathered.Slice(row, row + states);
  const Tensor delta_sum = gathered.Slice(row + states, row + states + 1);
  return SelectiveScanCarry(execution, {.a_log = scan.a_log,
                                        .delta_sum = delta_sum.vector(),
                                        .local = local.matrix(),
                                        .state = state.matrix()});
}

absl::StatusOr<Tensor> SegmentStates::StatesBefore(Execution& execution,
                                                   const SequenceLayout& layout,
                                                   const SelectiveScanInputs& scan) const {
  if (!AnyDocumentCrosses(layout)) return Tensor();
  const int64_t states = scan.b.columns, channels = scan.x.columns;
  Tensor own = execution.Zeros(StatisticsDType(scan.x.dtype), {states + 1, channels});
  if (layout.ends_inside) {
    Tensor local = own.Slice(0, states), delta_sum = own.Slice(states, states + 1);
    const int64_t begin = layout.document_offsets[layout.documents() - 1];
    PLAIT_RETURN_IF_ERROR(
        SelectiveScanSummaryForward(execution, {.x = Rows(scan.x, begin, layout.tokens),
                                                .dt = Rows(scan.dt, begin, layout.tokens),
                                                .b = Rows(scan.b, begin, layout.tokens),
                                                .a_log = scan.a_log,
                                                .dt_bias = scan.dt_bias,
                                                .final_state = local.matrix(),
                                                .delta_sum = delta_sum.vector()}));
  }
  PLAIT_ASSIGN_OR_RETURN(const Tensor all, Gather(execution, own));
  if (!layout.begins_inside) return Tensor();
  Tensor state = execution.Zeros(own.dtype(), {states, channels});
  for (int64_t rank = ExtentAt(layout, layout.segment_begin).first_rank; rank < ranks_->rank();
       ++rank) {
    PLAIT_RETURN_IF_ERROR(Carry(execution, scan, all, rank, state));
  }
  return OfDocument(execution, state, layout.documents(), 0);
}

absl::StatusOr<Tensor> SegmentStates::StateGradientsAfter(Execution& execution,
                                                          const SequenceLayout& layout,
                                                          const SelectiveScanInputs& scan,
                                                          const ConstMatrixView& dy) const {
  if (!AnyDocumentCrosses(layout)) return Tensor();
  const int64_t states = scan.b.columns, channels = scan.x.columns;
  Tensor own = execution.Zeros(StatisticsDType(scan.x.dtype), {states + 1, channels});
  if (layout.begins_inside) {
    Tensor local = own.Slice(0, states), delta_sum = own.Slice(states, states + 1);
    const int64_t end = layout.document_offsets[1];
    PLAIT_RETURN_IF_ERROR(
        SelectiveScanSummaryBackward(execution, {.dt = Rows(scan.dt, 0, end),
                                                 .z = Rows(scan.z, 0, end),
                                                 .c = Rows(scan.c, 0, end),
                                                 .dy = Rows(dy, 0, end),
                                                 .a_log = scan.a_log,
                                                 .dt_bias = scan.dt_bias,
                                                 .dinitial_state = local.matrix(),
                                                 .delta_sum = delta_sum.vector()}));
  }
  PLAIT_ASSIGN_OR_RETURN(const Tensor all, Gather(execution, own));
  if (!layout.ends_inside) return Tensor();
  Tensor state = execution.Zeros(own.dtype(), {states, channels});
  const int64_t segment_end = layout.segment_begin + layout.tokens;
  for (int64_t rank = ExtentAt(layout, segment_end - 1).last_rank; rank > ranks_->rank(); --rank) {
    PLAIT_RETURN_IF_ERROR(Carry(execution, scan, all, rank, state));
  }
  return OfDocument(execution, state, layout.documents(), layout.documents() - 1);
}

}  // namespace plait
