#include "base/status_macros.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/row_threads.h"
#include "kernels/cuda/vector_access.h"

namespace plait::cuda {
namespace {

constexpr int kBlockThreads = 256;

template <class Table, class T, int kVector>
__global__ void __launch_bounds__(kRowBlockThreads)
    ForwardKernel(EmbeddingForwardArgs args, unsigned column_blocks) {
  const MatrixPlace place(column_blocks);
  const int64_t d = place.vector * kVector, count = args.y.columns - d;
  if (place.row >= args.y.rows || count <= 0) return;
  const int32_t id = args.ids[place.row];
  T y[kVector];
  if (id < 0) {
    PLAIT_UNROLL
    for (int i = 0; i < kVector; ++i) y[i] = Round<T>(0.0f);
  } else if constexpr (std::is_same_v<Table, T>) {
    LoadVector(args.table.row<Table>(id) + d, count, y);
  } else {
    Table from[kVector];
    LoadVector(args.table.row<Table>(id) + d, count, from);
    PLAIT_UNROLL
    for (int i = 0; i < kVector; ++i) y[i] = Round<T>(Load(from[i]));
  }
  StoreVector(y, count, args.y.row<T>(place.row) + d);
}

// Tokens grouped by id. counts and taken, [vocabulary], and next_place begin as zeros.
struct TokenGroups {
  int32_t* counts;      // of an id's tokens
  int32_t* taken;       // of its places
  int32_t* begins;      // [vocabulary], of an id's places, where it has tokens
  int32_t* next_place;  // that no id has
  int32_t* arrived;     // [tokens], an id's tokens in its places, in any order
  int32_t* sorted;      // [tokens], an id's tokens in its places, in their own order
};

__device__ __forceinline__ int64_t ThreadOfGrid() {
  return int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}

__global__ void __launch_bounds__(kBlockThreads)
    CountKernel(const int32_t* ids, int64_t tokens, TokenGroups groups) {
  const int64_t t = ThreadOfGrid();
  if (t < tokens && ids[t] >= 0) atomicAdd(&groups.counts[ids[t]], 1);
}

// One thread an id. Where its places lie depends on the order of arrival, what they hold does not.
__global__ void __launch_bounds__(kBlockThreads)
    BeginKernel(int64_t vocabulary, TokenGroups groups) {
  const int64_t id = ThreadOfGrid();
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int32_t count = id < vocabulary ? groups.counts[id] : 0;
  int32_t end = count;  // of the lane's places among the warp's
  for (int lanes = 1; lanes < kWarpThreads; lanes *= 2) {
    const int32_t below = __shfl_up_sync(kWholeWarp, end, static_cast<unsigned>(lanes));
    if (lane >= lanes) end += below;
  }
  int32_t begin = 0;
  if (lane == kWarpThreads - 1 && end > 0) begin = atomicAdd(groups.next_place, end);
  begin = __shfl_sync(kWholeWarp, begin, kWarpThreads - 1);
  if (count > 0) groups.begins[id] = begin + end - count;
}

__global__ void __launch_bounds__(kBlockThreads)
    ArriveKernel(const int32_t* ids, int64_t tokens, TokenGroups groups) {
  const int64_t t = ThreadOfGrid();
  if (t >= tokens || ids[t] < 0) return;
  const int32_t id = ids[t];
  groups.arrived[groups.begins[id] + atomicAdd(&groups.taken[id], 1)] = static_cast<int32_t>(t);
}

__global__ void __launch_bounds__(kBlockThreads)
    SortKernel(const int32_t* ids, int64_t tokens, TokenGroups groups) {
  const int64_t t = ThreadOfGrid();
  if (t >= tokens || ids[t] < 0) return;
  const int32_t begin = groups.begins[ids[t]], end = begin + groups.counts[ids[t]];
  int32_t rank = 0;
  for (int32_t place = begin; place < end; ++place) rank += groups.arrived[place] < t ? 1 : 0;
  groups.sorted[begin + rank] = static_cast<int32_t>(t);
}

// A row of the tiling is a place; an id's first place adds the gradients of all its tokens.
template <class T, int kVector>
__global__ void __launch_bounds__(kRowBlockThreads)
    AddKernel(EmbeddingBackwardArgs args, TokenGroups groups, unsigned column_blocks) {
  using A = Accumulator<T>;
  const MatrixPlace place(column_blocks);
  const int64_t d = place.vector * kVector, count = args.dy.columns - d;
  if (place.row >= *groups.next_place || count <= 0) return;
  const int32_t id = args.ids[groups.sorted[place.row]];
  if (groups.begins[id] != place.row) return;
  const int32_t* tokens = groups.sorted + place.row;
  const int32_t num_tokens = groups.counts[id];
  A sums[kVector];
  LoadVector(args.dtable.row<A>(id) + d, count, sums);
  constexpr int kAhead = 4;  // gradients that are loaded before the first of them is added
  int32_t i = 0;
  for (; i + kAhead <= num_tokens; i += kAhead) {
    T dy[kAhead][kVector];
    PLAIT_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      LoadVector(args.dy.row<T>(tokens[i + k]) + d, count, dy[k]);
    }
    PLAIT_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      PLAIT_UNROLL
      for (int e = 0; e < kVector; ++e) sums[e] += Load(dy[k][e]);
    }
  }
  for (; i < num_tokens; ++i) {
    T dy[kVector];
    LoadVector(args.dy.row<T>(tokens[i]) + d, count, dy);
    PLAIT_UNROLL
    for (int e = 0; e < kVector; ++e) sums[e] += Load(dy[e]);
  }
  StoreVector(sums, count, args.dtable.row<A>(id) + d);
}

absl::Status GroupTokens(Execution& execution, const EmbeddingBackwardArgs& args,
                         const TokenGroups& groups) {
  const int64_t tokens = args.dy.rows, vocabulary = args.dtable.rows;
  StreamHandle stream = execution.compute().handle();
  const char* const what = "embedding backward";
  PLAIT_RETURN_IF_ERROR(ToStatus(LaunchKernel(CountKernel, {BlocksFor(tokens, kBlockThreads)},
                                              {kBlockThreads}, 0, stream, args.ids, tokens, groups),
                                 what));
  PLAIT_RETURN_IF_ERROR(ToStatus(LaunchKernel(BeginKernel, {BlocksFor(vocabulary, kBlockThreads)},
                                              {kBlockThreads}, 0, stream, vocabulary, groups),
                                 what));
  PLAIT_RETURN_IF_ERROR(ToStatus(LaunchKernel(ArriveKernel, {BlocksFor(tokens, kBlockThreads)},
                                              {kBlockThreads}, 0, stream, args.ids, tokens, groups),
                                 what));
  return ToStatus(LaunchKernel(SortKernel, {BlocksFor(tokens, kBlockThreads)}, {kBlockThreads}, 0,
                               stream, args.ids, tokens, groups),
                  what);
}

template <class Table, class T>
absl::Status LaunchForward(Execution& execution, const EmbeddingForwardArgs& args) {
  constexpr int kVector = kVectorElements<Table, T>;
  const bool aligned = IsAligned(args.table, kVector) && IsAligned(args.y, kVector);
  return DispatchVector<kVector>(aligned, [&](auto count) {
    constexpr int kCount = decltype(count)::value;
    const MatrixTiling tiling(args.y.rows, (args.y.columns + kCount - 1) / kCount);
    return ToStatus(LaunchKernel(ForwardKernel<Table, T, kCount>, {tiling.blocks},
                                 {tiling.threads_x, tiling.threads_y}, 0,
                                 execution.compute().handle(), args, tiling.column_blocks),
                    "embedding forward");
  });
}

}  // namespace

std::string AcceptsEmbeddingForward(const EmbeddingForwardArgs& args) {
  if (!IsFloating(args.table.dtype) || !IsFloating(args.y.dtype)) {
    return "dtypes other than bf16, f32 and f64";
  }
  return (args.table.dtype == DType::kF64) == (args.y.dtype == DType::kF64)
             ? ""
             : "f64 beside another dtype";
}

absl::Status EmbeddingForward(Execution& execution, const EmbeddingForwardArgs& args) {
  const bool wide_table = args.table.dtype == DType::kF32, wide = args.y.dtype == DType::kF32;
  if (args.y.dtype == DType::kF64) return LaunchForward<double, double>(execution, args);
  if (wide_table && wide) return LaunchForward<float, float>(execution, args);
  if (wide_table) return LaunchForward<float, BFloat16>(execution, args);
  if (wide) return LaunchForward<BFloat16, float>(execution, args);
  return LaunchForward<BFloat16, BFloat16>(execution, args);
}

std::string AcceptsEmbeddingBackward(const EmbeddingBackwardArgs& args) {
  if (!IsFloating(args.dy.dtype)) return "dtypes other than bf16, f32 and f64";
  return args.dtable.dtype == StatisticsDType(args.dy.dtype) ? "" : "dtable of another precision";
}

absl::Status EmbeddingBackward(Execution& execution, const EmbeddingBackwardArgs& args) {
  const int64_t tokens = args.dy.rows, vocabulary = args.dtable.rows;
  if (tokens == 0 || args.dy.columns == 0) return absl::OkStatus();
  Tensor zeros = execution.Empty(DType::kI32, {2 * vocabulary + 1});
  PLAIT_RETURN_IF_ERROR(execution.FillZero(zeros));
  Tensor begins = execution.Empty(DType::kI32, {vocabulary});
  Tensor places = execution.Empty(DType::kI32, {2 * tokens});
  const TokenGroups groups = {.counts = zeros.data<int32_t>(),
                              .taken = zeros.data<int32_t>() + vocabulary,
                              .begins = begins.data<int32_t>(),
                              .next_place = zeros.data<int32_t>() + 2 * vocabulary,
                              .arrived = places.data<int32_t>(),
                              .sorted = places.data<int32_t>() + tokens};
  PLAIT_RETURN_IF_ERROR(GroupTokens(execution, args, groups));
  return DispatchFloating(args.dy.dtype, [&](auto t) {
    using T = typename decltype(t)::Type;
    constexpr int kVector = kVectorElements<T>;
    const bool aligned = IsAligned(args.dy, kVector) && IsAligned(args.dtable, kVector);
    return DispatchVector<kVector>(aligned, [&](auto count) {
      constexpr int kCount = decltype(count)::value;
      const MatrixTiling tiling(tokens, (args.dy.columns + kCount - 1) / kCount);
      return ToStatus(
          LaunchKernel(AddKernel<T, kCount>, {tiling.blocks}, {tiling.threads_x, tiling.threads_y},
                       0, execution.compute().handle(), args, groups, tiling.column_blocks),
          "embedding backward");
    });
  });
}

KernelScratch::Blocks EmbeddingBackwardScratch(int64_t tokens, int64_t vocabulary) {
  if (tokens == 0) return {};
  return {4 * (2 * vocabulary + 1), 4 * vocabulary, 4 * 2 * tokens};
}

}  // namespace plait::cuda
