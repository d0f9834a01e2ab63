#include "kernels/cuda/library_grouped_matmul.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cuda/expert_routing.h"
#include "kernels/cuda/matmul.h"

namespace plait::cuda {
namespace {

constexpr int64_t kMinRows = 256;
constexpr int64_t kMinWeights = int64_t{8} << 20;
constexpr int64_t kMaxGatheredRows = 8192;

template <class View>
View RowRange(View view, int64_t begin, int64_t rows) {
  using Byte = std::conditional_t<std::is_same_v<View, MatrixView>, char, const char>;
  view.data = static_cast<Byte*>(view.data) +
              begin * view.row_stride * static_cast<int64_t>(SizeOf(view.dtype));
  view.rows = rows;
  return view;
}

std::string RefusesFineGroups(int64_t rows, int64_t groups, int64_t weights) {
  if (rows < kMinRows * groups) {
    return absl::StrCat(rows, " rows in ", groups, " groups, fewer than ", kMinRows, " a group");
  }
  if (weights < kMinWeights) return absl::StrCat(weights, " weights a group");
  return "";
}

// Rows of one group after another, from `matrix` or gathered from it.
class GroupRows {
 public:
  GroupRows(Execution& execution, const ConstMatrixView& matrix, const int32_t* row_index,
            int64_t rows)
      : execution_(execution), matrix_(matrix), row_index_(row_index) {
    if (row_index == nullptr) return;
    gathered_ = execution.Empty(matrix.dtype, {std::min(rows, kMaxGatheredRows), matrix.columns});
  }

  // body(begin, rows, view) for the pieces of [begin, end), in order. A view is good until the
  // next piece's.
  template <class Body>
  absl::Status ForEachPiece(int64_t begin, int64_t end, Body&& body) {
    while (begin < end) {
      int64_t rows = end - begin;
      ConstMatrixView piece = matrix_;
      if (row_index_ == nullptr) {
        piece = RowRange(matrix_, begin, rows);
      } else {
        rows = std::min(rows, kMaxGatheredRows);
        Tensor gathered = gathered_.Slice(0, rows);
        PLAIT_RETURN_IF_ERROR(CombineRows(execution_, {.rows = matrix_,
                                                       .token_row = row_index_ + begin,
                                                       .experts_per_token = 1,
                                                       .out = gathered.matrix()}));
        piece = gathered.matrix();
      }
      PLAIT_RETURN_IF_ERROR(body(begin, rows, piece));
      begin += rows;
    }
    return absl::OkStatus();
  }

 private:
  Execution& execution_;
  ConstMatrixView matrix_;
  const int32_t* row_index_;
  Tensor gathered_;
};

}  // namespace

std::string AcceptsLibraryGroupedMatmul(const GroupedMatmulArgs& args) {
  std::string reason = AcceptsMatmul({.a = args.a, .b = args.b, .c = args.c});
  if (!reason.empty()) return reason;
  return RefusesFineGroups(args.c.rows, args.groups, args.c.columns * args.a.columns);
}

absl::Status LibraryGroupedMatmul(Execution& execution, const GroupedMatmulArgs& args) {
  GroupRows a(execution, args.a, args.row_index, args.c.rows);
  const int64_t weight_rows = args.b.rows / args.groups;
  for (int64_t g = 0; g < args.groups; ++g) {
    PLAIT_RETURN_IF_ERROR(a.ForEachPiece(
        args.offsets[g], args.offsets[g + 1],
        [&](int64_t begin, int64_t rows, const ConstMatrixView& piece) {
          return Matmul(execution, {.a = piece,
                                    .b = RowRange(args.b, g * weight_rows, weight_rows),
                                    .transpose_b = args.transpose_b,
                                    .c = RowRange(args.c, begin, rows)});
        }));
  }
  return absl::OkStatus();
}

std::string AcceptsLibraryGroupedWeightGradient(const GroupedWeightGradientArgs& args) {
  std::string reason = AcceptsMatmul({.a = args.a, .b = args.b, .c = args.c});
  if (!reason.empty()) return reason;
  return RefusesFineGroups(args.a.rows, args.groups, args.a.columns * args.b.columns);
}

absl::Status LibraryGroupedWeightGradient(Execution& execution,
                                          const GroupedWeightGradientArgs& args) {
  GroupRows b(execution, args.b, args.row_index, args.a.rows);
  const int64_t m = args.a.columns;
  for (int64_t g = 0; g < args.groups; ++g) {
    PLAIT_RETURN_IF_ERROR(
        b.ForEachPiece(args.offsets[g], args.offsets[g + 1],
                       [&](int64_t begin, int64_t rows, const ConstMatrixView& piece) {
                         return Matmul(execution, {.a = RowRange(args.a, begin, rows),
                                                   .b = piece,
                                                   .transpose_a = Transpose::kYes,
                                                   .c = RowRange(args.c, g * m, m),
                                                   .accumulate = Accumulate::kYes});
                       }));
  }
  return absl::OkStatus();
}

bool AcceptsLibraryGroups(int64_t rows, int64_t groups, int64_t weights) {
  return RefusesFineGroups(rows, groups, weights).empty();
}

KernelScratch::Blocks LibraryGroupedScratch(const GroupedScratchShape& shape) {
  if (!shape.is_gathered) return {};
  return {std::min(shape.rows, kMaxGatheredRows) * shape.inner *
          static_cast<int64_t>(SizeOf(shape.operands))};
}

}  // namespace plait::cuda
