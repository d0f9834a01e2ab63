#include <algorithm>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_products.h"
#include "kernels/cuda/attention_tiles.h"
#include "kernels/cuda/dispatch.h"

namespace plait::cuda {
namespace {

constexpr int kDotThreads = 256;

// products[head, t] = dout_t . out_t, D of attention_args.h: a warp each.
template <class T>
__global__ void __launch_bounds__(kDotThreads)
    OutProductsKernel(AttentionBackwardArgs args, Accumulator<T>* products) {
  using A = Accumulator<T>;
  const int64_t tokens = args.q.rows, heads = args.layout.heads, head_dim = args.layout.head_dim;
  const int64_t item =
      static_cast<int64_t>(blockIdx.x) * (kDotThreads / kWarpThreads) + threadIdx.x / kWarpThreads;
  if (item >= tokens * heads) return;
  const int64_t t = item / heads, head = item % heads;
  const T* out = args.out.row<T>(t) + head * head_dim;
  const T* dout = args.dout.row<T>(t) + head * head_dim;
  A sum = 0;
  for (int64_t d = threadIdx.x % kWarpThreads; d < head_dim; d += kWarpThreads) {
    sum += Load(dout[d]) * Load(out[d]);
  }
  sum = WarpSum(sum);
  if (threadIdx.x % kWarpThreads == 0) products[head * tokens + t] = sum;
}

// What both kernels of the gradients are given. power_scale: of scores in powers of two.
template <class A>
struct GradientArgs {
  AttentionBackwardArgs args;
  const AttentionTile* tiles;
  const A* out_products;  // [heads, tokens]
  A scale, power_scale;
  bool aligned;
};

// Block (query tile, head).
template <class A, int kDim>
__global__ void __launch_bounds__(kAttentionThreads, 2) QueryGradientKernel(GradientArgs<A> given) {
  using Sizes = AttentionSizes<A, kDim>;
  const AttentionBackwardArgs& args = given.args;
  PLAIT_DYNAMIC_SHARED(A, q);
  A* const dout = q + Sizes::kOwnTile;
  A* const k = dout + Sizes::kOwnTile;
  A* const v = k + Sizes::kInnerTile;
  A* const dscores = v + Sizes::kInnerTile;

  const AttentionTile tile = given.tiles[blockIdx.x];
  const int64_t head = blockIdx.y, kv_head = head / (args.layout.heads / args.layout.kv_heads);
  const int head_dim = static_cast<int>(args.layout.head_dim);
  const bool causal = args.layout.mask == AttentionMask::kCausal;
  const int y = static_cast<int>(threadIdx.x) / kAttentionSide;
  const int x = static_cast<int>(threadIdx.x) % kAttentionSide;
  LoadTile<A, kDim>({args.q, head * head_dim, head_dim, given.aligned}, tile.row, tile.rows,
                    Sizes::kOwn, q);
  LoadTile<A, kDim>({args.dout, head * head_dim, head_dim, given.aligned}, tile.row, tile.rows,
                    Sizes::kOwn, dout);
  A log2_sum[Sizes::kRows], out_product[Sizes::kRows];
  PLAIT_UNROLL
  for (int i = 0; i < Sizes::kRows; ++i) {
    const int row = y + kAttentionSide * i;
    const bool inside = row < tile.rows;
    log2_sum[i] =
        inside ? args.log_sum_exp.row<A>(head)[tile.row + row] * static_cast<A>(kLog2E) : A{0};
    out_product[i] = inside ? given.out_products[head * args.q.rows + tile.row + row] : A{0};
  }

  A dq[Sizes::kRows][Sizes::kSums] = {};
  for (int begin = tile.begin; begin < tile.end; begin += Sizes::kInner) {
    const int keys = std::min(int{Sizes::kInner}, tile.end - begin);
    __syncthreads();
    LoadTile<A, kDim>({args.k, kv_head * head_dim, head_dim, given.aligned}, begin, keys,
                      Sizes::kInner, k);
    LoadTile<A, kDim>({args.v, kv_head * head_dim, head_dim, given.aligned}, begin, keys,
                      Sizes::kInner, v);
    __syncthreads();
    A scores[Sizes::kRows][Sizes::kScores], dweights[Sizes::kRows][Sizes::kScores];
    RowProducts<A, kDim>(q, k, head_dim, scores);
    RowProducts<A, kDim>(dout, v, head_dim, dweights);
    const int diagonal = causal ? tile.row + tile.shift - begin : Sizes::kInner;
    PLAIT_UNROLL
    for (int i = 0; i < Sizes::kRows; ++i) {
      const int row = y + kAttentionSide * i;
      PLAIT_UNROLL
      for (int j = 0; j < Sizes::kScores; ++j) {
        const int key = x + kAttentionSide * j;
        const A weight = Exp2(scores[i][j] * given.power_scale - log2_sum[i]);
        dscores[row * Sizes::kScoreStride + key] =
            key < keys && key <= row + diagonal
                ? weight * (dweights[i][j] - out_product[i]) * given.scale
                : A{0};
      }
    }
    __syncwarp();
    AddWeightedRows<A, kDim>(dscores, k, dq);
  }
  PLAIT_UNROLL
  for (int i = 0; i < Sizes::kRows; ++i) {
    const int row = y + kAttentionSide * i;
    if (row >= tile.rows) continue;
    StoreSums(args.dq, tile.row + row, head * head_dim, head_dim, given.aligned, A{1}, dq[i]);
  }
}

// Block (key tile, key head): over the query heads that read it, one after another.
template <class A, int kDim>
__global__ void __launch_bounds__(kAttentionThreads, 2) KeyGradientKernel(GradientArgs<A> given) {
  using Sizes = AttentionSizes<A, kDim>;
  const AttentionBackwardArgs& args = given.args;
  PLAIT_DYNAMIC_SHARED(A, k);
  A* const v = k + Sizes::kOwnTile;
  A* const q = v + Sizes::kOwnTile;
  A* const dout = q + Sizes::kInnerTile;
  A* const weights = dout + Sizes::kInnerTile;  // the probabilities, then the gradients of scores
  A* const log2_sums = weights + Sizes::kScoreTile;
  A* const out_products = log2_sums + Sizes::kInner;

  const AttentionTile tile = given.tiles[blockIdx.x];
  const int64_t kv_head = blockIdx.y, group = args.layout.heads / args.layout.kv_heads;
  const int head_dim = static_cast<int>(args.layout.head_dim);
  const bool causal = args.layout.mask == AttentionMask::kCausal;
  const int y = static_cast<int>(threadIdx.x) / kAttentionSide;
  const int x = static_cast<int>(threadIdx.x) % kAttentionSide;
  LoadTile<A, kDim>({args.k, kv_head * head_dim, head_dim, given.aligned}, tile.row, tile.rows,
                    Sizes::kOwn, k);
  LoadTile<A, kDim>({args.v, kv_head * head_dim, head_dim, given.aligned}, tile.row, tile.rows,
                    Sizes::kOwn, v);

  A dk[Sizes::kRows][Sizes::kSums] = {}, dv[Sizes::kRows][Sizes::kSums] = {};
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (int begin = tile.begin; begin < tile.end; begin += Sizes::kInner) {
      const int queries = std::min(int{Sizes::kInner}, tile.end - begin);
      __syncthreads();
      LoadTile<A, kDim>({args.q, head * head_dim, head_dim, given.aligned}, begin, queries,
                        Sizes::kInner, q);
      LoadTile<A, kDim>({args.dout, head * head_dim, head_dim, given.aligned}, begin, queries,
                        Sizes::kInner, dout);
      for (int j = static_cast<int>(threadIdx.x); j < Sizes::kInner; j += kAttentionThreads) {
        const bool inside = j < queries;
        log2_sums[j] =
            inside ? args.log_sum_exp.row<A>(head)[begin + j] * static_cast<A>(kLog2E) : A{0};
        out_products[j] = inside ? given.out_products[head * args.q.rows + begin + j] : A{0};
      }
      __syncthreads();
      A scores[Sizes::kRows][Sizes::kScores], dweights[Sizes::kRows][Sizes::kScores];
      RowProducts<A, kDim>(k, q, head_dim, scores);
      RowProducts<A, kDim>(v, dout, head_dim, dweights);
      // The tile's key i is seen by its queries from i - diagonal on.
      const int diagonal = causal ? begin + tile.shift - tile.row : Sizes::kOwn;
      PLAIT_UNROLL
      for (int i = 0; i < Sizes::kRows; ++i) {
        const int key = y + kAttentionSide * i;
        PLAIT_UNROLL
        for (int j = 0; j < Sizes::kScores; ++j) {
          const int query = x + kAttentionSide * j;
          const bool seen = query < queries && key <= query + diagonal;
          const A weight = seen ? Exp2(scores[i][j] * given.power_scale - log2_sums[query]) : A{0};
          weights[key * Sizes::kScoreStride + query] = weight;
          scores[i][j] =
              seen ? weight * (dweights[i][j] - out_products[query]) * given.scale : A{0};
        }
      }
      __syncwarp();
      AddWeightedRows<A, kDim>(weights, dout, dv);
      __syncwarp();
      PLAIT_UNROLL
      for (int i = 0; i < Sizes::kRows; ++i) {
        PLAIT_UNROLL
        for (int j = 0; j < Sizes::kScores; ++j) {
          weights[(y + kAttentionSide * i) * Sizes::kScoreStride + x + kAttentionSide * j] =
              scores[i][j];
        }
      }
      __syncwarp();
      AddWeightedRows<A, kDim>(weights, q, dk);
    }
  }
  PLAIT_UNROLL
  for (int i = 0; i < Sizes::kRows; ++i) {
    const int row = y + kAttentionSide * i;
    if (row >= tile.rows) continue;
    const int64_t column = kv_head * head_dim;
    StoreSums(args.dk, tile.row + row, column, head_dim, given.aligned, A{1}, dk[i]);
    StoreSums(args.dv, tile.row + row, column, head_dim, given.aligned, A{1}, dv[i]);
  }
}

absl::Status LaunchOutProducts(Execution& execution, const AttentionBackwardArgs& args,
                               Tensor& products) {
  const int64_t warps = kDotThreads / kWarpThreads;
  const auto blocks = static_cast<unsigned>((products.num_elements() + warps - 1) / warps);
  return DispatchFloating(args.q.dtype, [&](auto t) {
    using T = typename decltype(t)::Type;
    return ToStatus(
        LaunchKernel(OutProductsKernel<T>, {blocks}, {kDotThreads}, 0, execution.compute().handle(),
                     args, products.data<Accumulator<T>>()),
        "attention backward");
  });
}

template <class A, int kDim>
absl::Status Backward(Execution& execution, const AttentionBackwardArgs& args,
                      const Tensor& products) {
  using Sizes = AttentionSizes<A, kDim>;
  const AttentionLayout& layout = args.layout;
  GradientArgs<A> given = {.args = args,
                           .tiles = nullptr,
                           .out_products = products.data<A>(),
                           .scale = static_cast<A>(layout.scale),
                           .power_scale = static_cast<A>(layout.scale * kLog2E),
                           .aligned = true};
  for (const ConstMatrixView& view : {args.q, args.k, args.v, args.dout, ConstMatrixView(args.dq),
                                      ConstMatrixView(args.dk), ConstMatrixView(args.dv)}) {
    given.aligned = given.aligned && IsAligned(view, layout.head_dim);
  }
  const size_t shared = sizeof(A) * (2 * Sizes::kOwnTile + 2 * Sizes::kInnerTile +
                                     Sizes::kScoreTile + 2 * Sizes::kInner);
  StreamHandle stream = execution.compute().handle();
  PLAIT_ASSIGN_OR_RETURN(const AttentionTiles queries, QueryTiles(execution, layout, Sizes::kOwn));
  given.tiles = queries.tiles;
  PLAIT_RETURN_IF_ERROR(ToStatus(
      LaunchKernel(QueryGradientKernel<A, kDim>,
                   {static_cast<unsigned>(queries.count), static_cast<unsigned>(layout.heads)},
                   {kAttentionThreads}, shared, stream, given),
      "attention backward"));
  PLAIT_ASSIGN_OR_RETURN(const AttentionTiles keys, KeyTiles(execution, layout, Sizes::kOwn));
  given.tiles = keys.tiles;
  return ToStatus(
      LaunchKernel(KeyGradientKernel<A, kDim>,
                   {static_cast<unsigned>(keys.count), static_cast<unsigned>(layout.kv_heads)},
                   {kAttentionThreads}, shared, stream, given),
      "attention backward");
}

}  // namespace

std::string AcceptsAttentionBackward(const AttentionBackwardArgs& args) {
  return RefusesAttention(args.layout, args.q.dtype, {args.dq.dtype, args.dk.dtype, args.dv.dtype});
}

absl::Status AttentionBackward(Execution& execution, const AttentionBackwardArgs& args) {
  Tensor products =
      execution.Empty(StatisticsDType(args.q.dtype), {args.layout.heads, args.q.rows});
  PLAIT_RETURN_IF_ERROR(LaunchOutProducts(execution, args, products));
  return DispatchWide(args.q.dtype, [&](auto a) {
    using A = typename decltype(a)::Type;
    return DispatchHeadDim<A>(args.layout.head_dim, [&](auto dim) {
      return Backward<A, decltype(dim)::value>(execution, args, products);
    });
  });
}

KernelScratch::Blocks AttentionBackwardScratch(const AttentionScratchShape& shape) {
  return {shape.heads * shape.queries * static_cast<int64_t>(SizeOf(StatisticsDType(shape.dtype)))};
}

}  // namespace plait::cuda
