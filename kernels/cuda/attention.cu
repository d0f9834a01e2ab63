#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/device_copies.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/reduction.h"

namespace plait::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kBlockThreads = kWarps * kWarpThreads;
constexpr int kTile = kWarpThreads;  // rows of a tile: a lane each
constexpr int64_t kMaxHeadDim = 256;
constexpr int kLaneElements = kMaxHeadDim / kWarpThreads;

// Rows that a warp holds: as many as fit shared memory.
template <class T>
constexpr int kRows = sizeof(T) == 8 ? 2 : 4;
template <class T>
constexpr int kBlockRows = kWarps* kRows<T>;

// A run of at most kBlockRows queries (or keys) of one document.
struct Run {
  int32_t document, begin, end;  // begin and end within the document
};

struct Geometry {
  int heads, kv_heads, head_dim;
  double scale;
  bool causal;
  const Run* runs;  // by blockIdx.x
  const int32_t* query_offsets;
  const int32_t* key_offsets;
};

// Query i of `queries` sees key j of `keys`.
__device__ __forceinline__ bool Sees(const Geometry& g, int i, int queries, int j, int keys) {
  return !g.causal || j <= i + keys - queries;
}

// rows[r] = row first + r of `from`, from column `column` on, for r below `count`; zeros up to
// `padded`. By all threads of the block.
template <class T>
__device__ void LoadRows(const ConstMatrixView& from, int64_t first, int count, int padded,
                         int64_t column, int head_dim, T* rows) {
  for (int e = static_cast<int>(threadIdx.x); e < padded * head_dim; e += kBlockThreads) {
    const int r = e / head_dim, d = e - r * head_dim;
    rows[r * (head_dim + 1) + d] = r < count ? from.row<T>(first + r)[column + d] : T{};
  }
}

template <class T>
__device__ __forceinline__ Accumulator<T> Dot(const T* a, const T* b, int head_dim) {
  Accumulator<T> sum = 0;
  for (int d = 0; d < head_dim; ++d) sum += Load(a[d]) * Load(b[d]);
  return sum;
}

template <class A>
__device__ __forceinline__ void Store(const MatrixView& to, int64_t row, int64_t column, A value) {
  if (to.dtype == DType::kBf16) {
    to.row<BFloat16>(row)[column] = Round<BFloat16>(value);
  } else if (to.dtype == DType::kF32) {
    to.row<float>(row)[column] = static_cast<float>(value);
  } else {
    to.row<double>(row)[column] = static_cast<double>(value);
  }
}

// Block: a run of queries, of query head blockIdx.y.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    ForwardKernel(AttentionForwardArgs args, Geometry g) {
  using A = Accumulator<T>;
  constexpr int R = kRows<T>;
  const A infinity = static_cast<A>(HUGE_VAL);
  PLAIT_DYNAMIC_SHARED(T, memory);
  PLAIT_SHARED(A, probabilities, kWarps * R * kTile);
  const int width = g.head_dim + 1;
  T* own = memory;
  T* k_tile = own + kBlockRows<T> * width;
  T* v_tile = k_tile + kTile * width;
  const Run run = g.runs[blockIdx.x];
  const int head = static_cast<int>(blockIdx.y), kv_head = head / (g.heads / g.kv_heads);
  const int64_t q_begin = g.query_offsets[run.document], k_begin = g.key_offsets[run.document];
  const int queries = static_cast<int>(g.query_offsets[run.document + 1] - q_begin);
  const int keys = static_cast<int>(g.key_offsets[run.document + 1] - k_begin);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  A* weights = probabilities + warp * R * kTile;
  LoadRows(args.q, q_begin + run.begin, run.end - run.begin, kBlockRows<T>,
           int64_t{head} * g.head_dim, g.head_dim, own);
  A largest[R], sum[R], out[R][kLaneElements];
  for (int r = 0; r < R; ++r) {
    largest[r] = -infinity;
    sum[r] = 0;
    for (int c = 0; c < kLaneElements; ++c) out[r][c] = 0;
  }
  const int visible = g.causal ? std::min(keys, run.end + keys - queries) : keys;
  for (int first = 0; first < visible; first += kTile) {
    const int count = std::min(int{kTile}, keys - first);
    __syncthreads();
    LoadRows(args.k, k_begin + first, count, kTile, int64_t{kv_head} * g.head_dim, g.head_dim,
             k_tile);
    LoadRows(args.v, k_begin + first, count, kTile, int64_t{kv_head} * g.head_dim, g.head_dim,
             v_tile);
    __syncthreads();
    for (int r = 0; r < R; ++r) {
      const int row = warp * R + r, i = run.begin + row;
      const bool sees = i < run.end && lane < count && Sees(g, i, queries, first + lane, keys);
      const A score =
          sees ? static_cast<A>(g.scale) * Dot(own + row * width, k_tile + lane * width, g.head_dim)
               : -infinity;
      const A tile_largest = WarpMax(score);
      const A next = tile_largest > largest[r] ? tile_largest : largest[r];
      const A weight = sees ? static_cast<A>(exp(score - next)) : A{0};
      const A fade = next == -infinity ? A{1} : static_cast<A>(exp(largest[r] - next));
      largest[r] = next;
      sum[r] = sum[r] * fade + WarpSum(weight);
      for (int c = 0; c < kLaneElements; ++c) out[r][c] *= fade;
      weights[r * kTile + lane] = weight;
    }
    __syncwarp();
    for (int c = 0; c * kWarpThreads < g.head_dim; ++c) {
      const int d = c * kWarpThreads + lane;
      if (d >= g.head_dim) continue;
      for (int j = 0; j < count; ++j) {
        const A v = Load(v_tile[j * width + d]);
        for (int r = 0; r < R; ++r) out[r][c] += weights[r * kTile + j] * v;
      }
    }
    __syncwarp();
  }
  for (int r = 0; r < R; ++r) {
    const int i = run.begin + warp * R + r;
    if (i >= run.end) continue;
    const A scale = sum[r] > 0 ? 1 / sum[r] : A{0};
    for (int c = 0; c * kWarpThreads + lane < g.head_dim; ++c) {
      Store(args.out, q_begin + i, int64_t{head} * g.head_dim + c * kWarpThreads + lane,
            out[r][c] * scale);
    }
    if (args.log_sum_exp && lane == 0) {
      args.log_sum_exp.row<A>(head)[q_begin + i] =
          sum[r] > 0 ? largest[r] + static_cast<A>(log(sum[r])) : -infinity;
    }
  }
}

// dots[head, token] = dout . out: a warp a query head of a token.
template <class T, class O>
__global__ void __launch_bounds__(kBlockThreads)
    OutputDotsKernel(AttentionBackwardArgs args, int heads, int head_dim, Accumulator<T>* dots) {
  using A = Accumulator<T>;
  const int64_t tokens = args.q.rows;
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpThreads;
  if (pair >= tokens * heads) return;
  const int64_t token = pair / heads, head = pair % heads;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  A sum = 0;
  for (int64_t d = lane; d < head_dim; d += kWarpThreads) {
    sum += static_cast<A>(Load(args.dout.row<T>(token)[head * head_dim + d])) *
           static_cast<A>(Load(args.out.row<O>(token)[head * head_dim + d]));
  }
  sum = WarpSum(sum);
  if (lane == 0) dots[head * tokens + token] = sum;
}

// Block: a run of queries, of query head blockIdx.y; tiles of keys.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    QueryGradientKernel(AttentionBackwardArgs args, Geometry g, const Accumulator<T>* dots) {
  using A = Accumulator<T>;
  constexpr int R = kRows<T>;
  PLAIT_DYNAMIC_SHARED(T, memory);
  PLAIT_SHARED(A, dscores, kWarps * R * kTile);
  const int width = g.head_dim + 1;
  T* own_q = memory;
  T* own_dout = own_q + kBlockRows<T> * width;
  T* k_tile = own_dout + kBlockRows<T> * width;
  T* v_tile = k_tile + kTile * width;
  const Run run = g.runs[blockIdx.x];
  const int head = static_cast<int>(blockIdx.y), kv_head = head / (g.heads / g.kv_heads);
  const int64_t q_begin = g.query_offsets[run.document], k_begin = g.key_offsets[run.document];
  const int queries = static_cast<int>(g.query_offsets[run.document + 1] - q_begin);
  const int keys = static_cast<int>(g.key_offsets[run.document + 1] - k_begin);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  A* ds = dscores + warp * R * kTile;
  LoadRows(args.q, q_begin + run.begin, run.end - run.begin, kBlockRows<T>,
           int64_t{head} * g.head_dim, g.head_dim, own_q);
  LoadRows(args.dout, q_begin + run.begin, run.end - run.begin, kBlockRows<T>,
           int64_t{head} * g.head_dim, g.head_dim, own_dout);
  A dq[R][kLaneElements];
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < kLaneElements; ++c) dq[r][c] = 0;
  }
  const int visible = g.causal ? std::min(keys, run.end + keys - queries) : keys;
  for (int first = 0; first < visible; first += kTile) {
    const int count = std::min(int{kTile}, keys - first);
    __syncthreads();
    LoadRows(args.k, k_begin + first, count, kTile, int64_t{kv_head} * g.head_dim, g.head_dim,
             k_tile);
    LoadRows(args.v, k_begin + first, count, kTile, int64_t{kv_head} * g.head_dim, g.head_dim,
             v_tile);
    __syncthreads();
    for (int r = 0; r < R; ++r) {
      const int row = warp * R + r, i = run.begin + row;
      A value = 0;
      if (i < run.end && lane < count && Sees(g, i, queries, first + lane, keys)) {
        const A score =
            static_cast<A>(g.scale) * Dot(own_q + row * width, k_tile + lane * width, g.head_dim);
        const A p = static_cast<A>(exp(score - args.log_sum_exp.row<A>(head)[q_begin + i]));
        const A dp = Dot(own_dout + row * width, v_tile + lane * width, g.head_dim);
        value = p * (dp - dots[head * args.q.rows + q_begin + i]) * static_cast<A>(g.scale);
      }
      ds[r * kTile + lane] = value;
    }
    __syncwarp();
    for (int c = 0; c * kWarpThreads < g.head_dim; ++c) {
      const int d = c * kWarpThreads + lane;
      if (d >= g.head_dim) continue;
      for (int j = 0; j < count; ++j) {
        const A k = Load(k_tile[j * width + d]);
        for (int r = 0; r < R; ++r) dq[r][c] += ds[r * kTile + j] * k;
      }
    }
    __syncwarp();
  }
  for (int r = 0; r < R; ++r) {
    const int i = run.begin + warp * R + r;
    if (i >= run.end) continue;
    for (int c = 0; c * kWarpThreads + lane < g.head_dim; ++c) {
      Store(args.dq, q_begin + i, int64_t{head} * g.head_dim + c * kWarpThreads + lane, dq[r][c]);
    }
  }
}

// Block: a run of keys, of key head blockIdx.y; the query heads that read it one after another,
// tiles of queries in each.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    KeyGradientKernel(AttentionBackwardArgs args, Geometry g, const Accumulator<T>* dots) {
  using A = Accumulator<T>;
  constexpr int R = kRows<T>;
  PLAIT_DYNAMIC_SHARED(T, memory);
  PLAIT_SHARED(A, probabilities, kWarps * R * kTile);
  PLAIT_SHARED(A, dscores, kWarps * R * kTile);
  const int width = g.head_dim + 1;
  T* own_k = memory;
  T* own_v = own_k + kBlockRows<T> * width;
  T* q_tile = own_v + kBlockRows<T> * width;
  T* dout_tile = q_tile + kTile * width;
  const Run run = g.runs[blockIdx.x];
  const int kv_head = static_cast<int>(blockIdx.y), group = g.heads / g.kv_heads;
  const int64_t q_begin = g.query_offsets[run.document], k_begin = g.key_offsets[run.document];
  const int queries = static_cast<int>(g.query_offsets[run.document + 1] - q_begin);
  const int keys = static_cast<int>(g.key_offsets[run.document + 1] - k_begin);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  A* weights = probabilities + warp * R * kTile;
  A* ds = dscores + warp * R * kTile;
  LoadRows(args.k, k_begin + run.begin, run.end - run.begin, kBlockRows<T>,
           int64_t{kv_head} * g.head_dim, g.head_dim, own_k);
  LoadRows(args.v, k_begin + run.begin, run.end - run.begin, kBlockRows<T>,
           int64_t{kv_head} * g.head_dim, g.head_dim, own_v);
  A dk[R][kLaneElements], dv[R][kLaneElements];
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < kLaneElements; ++c) dk[r][c] = dv[r][c] = 0;
  }
  // The first query that sees the run's first key.
  const int first_query = g.causal ? std::max(0, run.begin - (keys - queries)) : 0;
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (int first = first_query; first < queries; first += kTile) {
      const int count = std::min(int{kTile}, queries - first);
      __syncthreads();
      LoadRows(args.q, q_begin + first, count, kTile, int64_t{head} * g.head_dim, g.head_dim,
               q_tile);
      LoadRows(args.dout, q_begin + first, count, kTile, int64_t{head} * g.head_dim, g.head_dim,
               dout_tile);
      __syncthreads();
      for (int r = 0; r < R; ++r) {
        const int row = warp * R + r, j = run.begin + row, i = first + lane;
        A p = 0, value = 0;
        if (j < run.end && lane < count && Sees(g, i, queries, j, keys)) {
          const A score =
              static_cast<A>(g.scale) * Dot(q_tile + lane * width, own_k + row * width, g.head_dim);
          p = static_cast<A>(exp(score - args.log_sum_exp.row<A>(head)[q_begin + i]));
          const A dp = Dot(dout_tile + lane * width, own_v + row * width, g.head_dim);
          value = p * (dp - dots[head * args.q.rows + q_begin + i]) * static_cast<A>(g.scale);
        }
        weights[r * kTile + lane] = p;
        ds[r * kTile + lane] = value;
      }
      __syncwarp();
      for (int c = 0; c * kWarpThreads < g.head_dim; ++c) {
        const int d = c * kWarpThreads + lane;
        if (d >= g.head_dim) continue;
        for (int i = 0; i < count; ++i) {
          const A q = Load(q_tile[i * width + d]), dout = Load(dout_tile[i * width + d]);
          for (int r = 0; r < R; ++r) {
            dk[r][c] += ds[r * kTile + i] * q;
            dv[r][c] += weights[r * kTile + i] * dout;
          }
        }
      }
      __syncwarp();
    }
  }
  for (int r = 0; r < R; ++r) {
    const int j = run.begin + warp * R + r;
    if (j >= run.end) continue;
    for (int c = 0; c * kWarpThreads + lane < g.head_dim; ++c) {
      const int64_t column = int64_t{kv_head} * g.head_dim + c * kWarpThreads + lane;
      Store(args.dk, k_begin + j, column, dk[r][c]);
      Store(args.dv, k_begin + j, column, dv[r][c]);
    }
  }
}

// The runs of all documents, on the device: offsets are the queries' or the keys'.
absl::StatusOr<const Run*> DeviceRuns(Execution& execution, const int32_t* offsets,
                                      int64_t documents, int rows, unsigned& count) {
  std::vector<int32_t> runs;
  for (int32_t s = 0; s < documents; ++s) {
    const int32_t size = offsets[s + 1] - offsets[s];
    for (int32_t begin = 0; begin < size; begin += rows) {
      runs.insert(runs.end(), {s, begin, std::min(begin + rows, size)});
    }
  }
  static_assert(sizeof(Run) == 3 * sizeof(int32_t));
  count = static_cast<unsigned>(runs.size() / 3);
  PLAIT_ASSIGN_OR_RETURN(const int32_t* on_device,
                         DeviceCopy(execution, runs.data(), static_cast<int64_t>(runs.size())));
  return reinterpret_cast<const Run*>(on_device);
}

absl::StatusOr<Geometry> GeometryOf(Execution& execution, const AttentionLayout& layout) {
  Geometry g{.heads = static_cast<int>(layout.heads),
             .kv_heads = static_cast<int>(layout.kv_heads),
             .head_dim = static_cast<int>(layout.head_dim),
             .scale = layout.scale,
             .causal = layout.mask == AttentionMask::kCausal};
  PLAIT_ASSIGN_OR_RETURN(g.query_offsets,
                         DeviceCopy(execution, layout.query_offsets, layout.documents + 1));
  PLAIT_ASSIGN_OR_RETURN(g.key_offsets,
                         DeviceCopy(execution, layout.key_offsets, layout.documents + 1));
  return g;
}

template <class T>
size_t SharedBytes(int rows_held, int64_t head_dim) {
  return static_cast<size_t>(rows_held) * static_cast<size_t>(head_dim + 1) * sizeof(T);
}

std::string AcceptsLayout(const AttentionLayout& layout, DType dtype) {
  if (!IsFloating(dtype)) return "dtypes other than bf16, f32 and f64";
  if (layout.head_dim > kMaxHeadDim) return absl::StrCat("head_dim above ", kMaxHeadDim);
  return "";
}

// dtype of q, or f32 beside bf16.
bool IsOutput(DType out, DType q) { return out == q || (out == DType::kF32 && q == DType::kBf16); }

}  // namespace

std::string AcceptsAttentionForward(const AttentionForwardArgs& args) {
  if (!IsOutput(args.out.dtype, args.q.dtype)) return "an output of another precision";
  if (args.log_sum_exp && args.log_sum_exp.dtype != StatisticsDType(args.q.dtype)) {
    return "statistics of another precision";
  }
  return AcceptsLayout(args.layout, args.q.dtype);
}

absl::Status AttentionForward(Execution& execution, const AttentionForwardArgs& args) {
  const AttentionLayout& layout = args.layout;
  return DispatchFloating(args.q.dtype, [&](auto t) -> absl::Status {
    using T = typename decltype(t)::Type;
    unsigned runs = 0;
    PLAIT_ASSIGN_OR_RETURN(Geometry g, GeometryOf(execution, layout));
    PLAIT_ASSIGN_OR_RETURN(
        g.runs, DeviceRuns(execution, layout.query_offsets, layout.documents, kBlockRows<T>, runs));
    return ToStatus(
        LaunchKernel(ForwardKernel<T>, {runs, static_cast<unsigned>(layout.heads)}, {kBlockThreads},
                     SharedBytes<T>(kBlockRows<T> + 2 * kTile, layout.head_dim),
                     execution.compute().handle(), args, g),
        "attention forward");
  });
}

std::string AcceptsAttentionBackward(const AttentionBackwardArgs& args) {
  for (const DType dtype : {args.out.dtype, args.dq.dtype, args.dk.dtype, args.dv.dtype}) {
    if (!IsOutput(dtype, args.q.dtype)) return "gradients or an output of another precision";
  }
  if (args.dout.dtype != args.q.dtype) return "a gradient of the output of another precision";
  if (args.log_sum_exp.dtype != StatisticsDType(args.q.dtype)) {
    return "statistics of another precision";
  }
  return AcceptsLayout(args.layout, args.q.dtype);
}

absl::Status AttentionBackward(Execution& execution, const AttentionBackwardArgs& args) {
  const AttentionLayout& layout = args.layout;
  return DispatchFloating(args.q.dtype, [&](auto t) -> absl::Status {
    using T = typename decltype(t)::Type;
    using A = Accumulator<T>;
    StreamHandle stream = execution.compute().handle();
    const int64_t pairs = args.q.rows * layout.heads;
    Tensor dots = execution.Empty(StatisticsDType(args.q.dtype), {pairs});
    const auto dots_of = [&](auto kernel) {
      return ToStatus(LaunchKernel(kernel, {static_cast<unsigned>((pairs + kWarps - 1) / kWarps)},
                                   {kBlockThreads}, 0, stream, args, static_cast<int>(layout.heads),
                                   static_cast<int>(layout.head_dim), dots.data<A>()),
                      "attention backward");
    };
    PLAIT_RETURN_IF_ERROR(args.out.dtype == args.q.dtype ? dots_of(OutputDotsKernel<T, T>)
                                                         : dots_of(OutputDotsKernel<T, float>));
    PLAIT_ASSIGN_OR_RETURN(Geometry g, GeometryOf(execution, layout));
    const size_t shared = SharedBytes<T>(2 * kBlockRows<T> + 2 * kTile, layout.head_dim);
    unsigned runs = 0;
    PLAIT_ASSIGN_OR_RETURN(
        g.runs, DeviceRuns(execution, layout.query_offsets, layout.documents, kBlockRows<T>, runs));
    PLAIT_RETURN_IF_ERROR(
        ToStatus(LaunchKernel(QueryGradientKernel<T>, {runs, static_cast<unsigned>(layout.heads)},
                              {kBlockThreads}, shared, stream, args, g, dots.data<A>()),
                 "attention backward"));
    PLAIT_ASSIGN_OR_RETURN(
        g.runs, DeviceRuns(execution, layout.key_offsets, layout.documents, kBlockRows<T>, runs));
    return ToStatus(
        LaunchKernel(KeyGradientKernel<T>, {runs, static_cast<unsigned>(layout.kv_heads)},
                     {kBlockThreads}, shared, stream, args, g, dots.data<A>()),
        "attention backward");
  });
}

}  // namespace plait::cuda
