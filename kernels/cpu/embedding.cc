#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/embedding.cc"
#include "hwy/foreach_target.h"
// foreach_target first: it includes this file once per target.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/embedding.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace plait::cpu::HWY_NAMESPACE {

template <class Table, class T>
void ForwardRow(const EmbeddingForwardArgs& args, int64_t token) {
  const F32Tag d;
  T* y = args.y.row<T>(token);
  if (args.ids[token] < 0) {
    std::fill_n(y, args.y.columns, T(0.0f));
    return;
  }
  const Table* from = args.table.row<Table>(args.ids[token]);
  if constexpr (std::is_same_v<Table, T>) {
    std::memcpy(y, from, static_cast<size_t>(args.y.columns) * sizeof(T));
  } else {
    ForEachVector(0, args.y.columns, [&](int64_t i, auto access) PLAIT_INLINE_BODY {
      access.Store(d, access.Load(d, from + i), y + i);
    });
  }
}

// Columns [begin, end) of dtable: tokens in order, so that the sum does not depend on the threads.
template <class T>
void BackwardColumns(const EmbeddingBackwardArgs& args, int64_t begin, int64_t end) {
  const F32Tag d;
  for (int64_t token = 0; token < args.dy.rows; ++token) {
    if (args.ids[token] < 0) continue;
    const T* dy = args.dy.row<T>(token);
    float* to = args.dtable.row<float>(args.ids[token]);
    ForEachVector(begin, end, [&](int64_t i, auto access) PLAIT_INLINE_BODY {
      access.Store(d, hn::Add(access.Load(d, to + i), access.Load(d, dy + i)), to + i);
    });
  }
}

void ForwardAny(const EmbeddingForwardArgs& args, int num_threads) {
  WithElementType(args.table.dtype, [&](auto table_element) {
    WithElementType(args.y.dtype, [&](auto element) {
      using Table = decltype(table_element);
      using T = decltype(element);
#pragma omp parallel for num_threads(num_threads) schedule(static)
      for (int64_t token = 0; token < args.y.rows; ++token) ForwardRow<Table, T>(args, token);
    });
  });
}

void BackwardAny(const EmbeddingBackwardArgs& args, int num_threads) {
  WithElementType(args.dy.dtype, [&](auto element) {
    using T = decltype(element);
    // One range of columns a thread, in cache lines of dtable: every thread walks the tokens once.
    constexpr int64_t kLine = 16;
    const int64_t columns = args.dy.columns, lines = (columns + kLine - 1) / kLine;
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int64_t part = 0; part < num_threads; ++part) {
      const int64_t begin = lines * part / num_threads * kLine;
      const int64_t end = std::min(columns, lines * (part + 1) / num_threads * kLine);
      BackwardColumns<T>(args, begin, end);
    }
  });
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace plait::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace plait::cpu {
namespace {

HWY_EXPORT(ForwardAny);
HWY_EXPORT(BackwardAny);

}  // namespace

std::string AcceptsEmbeddingForward(const EmbeddingForwardArgs& args) {
  return args.table.dtype == DType::kF64 || args.y.dtype == DType::kF64 ? "f64" : "";
}
std::string AcceptsEmbeddingBackward(const EmbeddingBackwardArgs& args) {
  if (args.dy.dtype == DType::kF64) return "f64";
  return args.dtable.dtype == DType::kF32 ? "" : "dtable is not f32";
}

absl::Status EmbeddingForward(Execution& execution, const EmbeddingForwardArgs& args) {
  HWY_DYNAMIC_DISPATCH(ForwardAny)(args, execution.num_threads());
  return absl::OkStatus();
}

absl::Status EmbeddingBackward(Execution& execution, const EmbeddingBackwardArgs& args) {
  HWY_DYNAMIC_DISPATCH(BackwardAny)(args, execution.num_threads());
  return absl::OkStatus();
}

}  // namespace plait::cpu
#endif  // HWY_ONCE
