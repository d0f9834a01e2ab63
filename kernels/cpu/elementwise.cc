#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
#include "hwy/foreach_target.h"
// foreach_target first: it includes this file once per target.
#include <algorithm>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

// Columns [begin, end) of a row. A: element type of a, present.
template <class A, class B, class Out>
void AddSpan(const ScaledAddArgs& args, int64_t row, float scale, int64_t begin, int64_t end) {
  const F32Tag d;
  const A* a = args.a.row<A>(row);
  const B* b = args.b.row<B>(row);
  Out* out = args.out.row<Out>(row);
  const auto factor = hn::Set(d, scale);
  ForEachVector(begin, end, [&](int64_t i, auto access) PLAIT_INLINE_BODY {
    access.Store(d, hn::MulAdd(access.Load(d, b + i), factor, access.Load(d, a + i)), out + i);
  });
}

template <class B, class Out>
void ScaleSpan(const ScaledAddArgs& args, int64_t row, float scale, int64_t begin, int64_t end) {
  const F32Tag d;
  const B* b = args.b.row<B>(row);
  Out* out = args.out.row<Out>(row);
  const auto factor = hn::Set(d, scale);
  ForEachVector(begin, end, [&](int64_t i, auto access) PLAIT_INLINE_BODY {
    access.Store(d, hn::Mul(access.Load(d, b + i), factor), out + i);
  });
}

template <class B, class Out>
auto SpanFunction(const ScaledAddArgs& args) {
  if (!args.a) return &ScaleSpan<B, Out>;
  return args.a.dtype == DType::kBf16 ? &AddSpan<BFloat16, B, Out> : &AddSpan<float, B, Out>;
}

void ScaledAddAny(const ScaledAddArgs& args, int num_threads) {
  constexpr int64_t kTile = 8192;  // a flat array is one row
  WithElementType(args.b.dtype, [&](auto b) {
    WithElementType(args.out.dtype, [&](auto out) {
      const auto span = SpanFunction<decltype(b), decltype(out)>(args);
      const int64_t rows = args.out.rows, columns = args.out.columns;
#pragma omp parallel for collapse(2) num_threads(num_threads) schedule(static)
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t begin = 0; begin < columns; begin += kTile) {
          const double row_scale = args.row_scale ? args.row_scale.as<float>()[row] : 1.0;
          span(args, row, static_cast<float>(args.scale * row_scale), begin,
               std::min(begin + kTile, columns));
        }
      }
    });
  });
}

// Columns [begin, end) of the sums: rows in order, added to `sums` once.
constexpr int64_t kColumns = 256;
template <class T>
void ColumnSumSpan(const ColumnSumArgs& args, int64_t begin, int64_t end) {
  const F32Tag d;
  HWY_ALIGN float partial[kColumns] = {};
  for (int64_t row = 0; row < args.x.rows; ++row) {
    const T* x = args.x.row<T>(row) + begin;
    ForEachVector(0, end - begin, [&](int64_t i, auto access) PLAIT_INLINE_BODY {
      access.Store(d, hn::Add(access.Load(d, partial + i), access.Load(d, x + i)), partial + i);
    });
  }
  for (int64_t i = begin; i < end; ++i) args.sums.as<float>()[i] += partial[i - begin];
}

void ColumnSumAny(const ColumnSumArgs& args, int num_threads) {
  WithElementType(args.x.dtype, [&](auto element) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int64_t begin = 0; begin < args.x.columns; begin += kColumns) {
      ColumnSumSpan<decltype(element)>(args, begin, std::min(begin + kColumns, args.x.columns));
    }
  });
}

template <class T>
void RowStatisticsRow(const RowStatisticsArgs& args, int64_t row) {
  const F32Tag d;
  const T* x = args.x.row<T>(row);
  auto squares = hn::Zero(d), largest = hn::Zero(d);
  ForEachVector(0, args.x.columns, [&](int64_t i, auto access) PLAIT_INLINE_BODY {
    const auto value = access.Load(d, x + i);
    squares = hn::MulAdd(value, value, squares);
    largest = hn::Max(largest, hn::Abs(value));
  });
  if (args.square_sum) args.square_sum.as<float>()[row] = hn::GetLane(hn::SumOfLanes(d, squares));
  if (args.absolute_max)
    args.absolute_max.as<float>()[row] = hn::GetLane(hn::MaxOfLanes(d, largest));
}

void RowStatisticsAny(const RowStatisticsArgs& args, int num_threads) {
  WithElementType(args.x.dtype, [&](auto element) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int64_t row = 0; row < args.x.rows; ++row) RowStatisticsRow<decltype(element)>(args, row);
  });
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plait::cpu {
namespace {

HWY_EXPORT(ScaledAddAny);
HWY_EXPORT(ColumnSumAny);
HWY_EXPORT(RowStatisticsAny);

}  // namespace

std::string AcceptsScaledAdd(const ScaledAddArgs& args) {
  if (args.b.dtype == DType::kF64 || args.out.dtype == DType::kF64 ||
      (args.a && args.a.dtype == DType::kF64))
    return "f64";
  if (args.row_scale && args.row_scale.dtype != DType::kF32) return "row_scale is not f32";
  return "";
}
std::string AcceptsColumnSum(const ColumnSumArgs& args) {
  if (args.x.dtype == DType::kF64) return "f64";
  return args.sums.dtype == DType::kF32 ? "" : "sums is not f32";
}
std::string AcceptsRowStatistics(const RowStatisticsArgs& args) {
  if (args.x.dtype == DType::kF64) return "f64";
  if ((args.square_sum && args.square_sum.dtype != DType::kF32) ||
      (args.absolute_max && args.absolute_max.dtype != DType::kF32))
    return "an output is not f32";
  return "";
}

absl::Status ScaledAdd(Execution& execution, const ScaledAddArgs& args) {
  HWY_DYNAMIC_DISPATCH(ScaledAddAny)(args, execution.num_threads());
  return absl::OkStatus();
}

absl::Status ColumnSum(Execution& execution, const ColumnSumArgs& args) {
  HWY_DYNAMIC_DISPATCH(ColumnSumAny)(args, execution.num_threads());
  return absl::OkStatus();
}

absl::Status RowStatistics(Execution& execution, const RowStatisticsArgs& args) {
  HWY_DYNAMIC_DISPATCH(RowStatisticsAny)(args, execution.num_threads());
  return absl::OkStatus();
}

}  // namespace plait::cpu
#endif  // HWY_ONCE
