#include <algorithm>
#include <cmath>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_products.h"
#include "kernels/cuda/attention_tiles.h"
#include "kernels/cuda/dispatch.h"

namespace plait::cuda {
namespace {

// log of a sum of powers of two.
template <class A>
__device__ __forceinline__ A LogSum(A largest, A total) {
  if constexpr (std::is_same_v<A, double>) {
    return largest * 0.6931471805599453 + log(total);
  } else {
    return largest * 0.69314718f + logf(total);
  }
}

// Block (tile, head). scale: of scores in powers of two.
template <class A, int kDim>
__global__ void __launch_bounds__(kAttentionThreads)
    ForwardKernel(AttentionForwardArgs args, const AttentionTile* tiles, A scale, bool aligned) {
  using Sizes = AttentionSizes<A, kDim>;
  constexpr A kInfinity = static_cast<A>(INFINITY);
  PLAIT_DYNAMIC_SHARED(A, q);
  A* const k = q + Sizes::kOwnTile;
  A* const v = k + Sizes::kInnerTile;
  A* const weights = v + Sizes::kInnerTile;

  const AttentionTile tile = tiles[blockIdx.x];
  const int64_t head = blockIdx.y, kv_head = head / (args.layout.heads / args.layout.kv_heads);
  const int head_dim = static_cast<int>(args.layout.head_dim);
  const bool causal = args.layout.mask == AttentionMask::kCausal;
  const int y = static_cast<int>(threadIdx.x) / kAttentionSide;
  const int x = static_cast<int>(threadIdx.x) % kAttentionSide;
  LoadTile<A, kDim>({args.q, head * head_dim, head_dim, aligned}, tile.row, tile.rows, Sizes::kOwn,
                    q);

  A sums[Sizes::kRows][Sizes::kSums] = {};
  A largest[Sizes::kRows];
  A total[Sizes::kRows] = {};  // of this thread's columns
  PLAIT_UNROLL
  for (int i = 0; i < Sizes::kRows; ++i) largest[i] = -kInfinity;
  for (int begin = tile.begin; begin < tile.end; begin += Sizes::kInner) {
    const int keys = std::min(int{Sizes::kInner}, tile.end - begin);
    __syncthreads();
    LoadTile<A, kDim>({args.k, kv_head * head_dim, head_dim, aligned}, begin, keys, Sizes::kInner,
                      k);
    LoadTile<A, kDim>({args.v, kv_head * head_dim, head_dim, aligned}, begin, keys, Sizes::kInner,
                      v);
    __syncthreads();
    A scores[Sizes::kRows][Sizes::kScores];
    RowProducts<A, kDim>(q, k, head_dim, scores);
    // The tile's row i sees its keys up to i + diagonal. The first tile has a key for every row.
    const int diagonal = causal ? tile.row + tile.shift - begin : Sizes::kInner;
    PLAIT_UNROLL
    for (int i = 0; i < Sizes::kRows; ++i) {
      const int row = y + kAttentionSide * i;
      A high = largest[i];
      PLAIT_UNROLL
      for (int j = 0; j < Sizes::kScores; ++j) {
        const int key = x + kAttentionSide * j;
        scores[i][j] = key < keys && key <= row + diagonal ? scores[i][j] * scale : -kInfinity;
        high = scores[i][j] > high ? scores[i][j] : high;
      }
      PLAIT_UNROLL
      for (int lanes = kAttentionSide / 2; lanes > 0; lanes /= 2) {
        const A other = __shfl_xor_sync(kWholeWarp, high, lanes);
        high = other > high ? other : high;
      }
      const A factor = Exp2(largest[i] - high);
      largest[i] = high;
      total[i] *= factor;
      PLAIT_UNROLL
      for (int c = 0; c < Sizes::kSums; ++c) sums[i][c] *= factor;
      PLAIT_UNROLL
      for (int j = 0; j < Sizes::kScores; ++j) {
        const A weight = Exp2(scores[i][j] - high);
        total[i] += weight;
        weights[row * Sizes::kScoreStride + x + kAttentionSide * j] = weight;
      }
    }
    __syncwarp();
    AddWeightedRows<A, kDim>(weights, v, sums);
  }

  PLAIT_UNROLL
  for (int i = 0; i < Sizes::kRows; ++i) {
    PLAIT_UNROLL
    for (int lanes = kAttentionSide / 2; lanes > 0; lanes /= 2) {
      total[i] += __shfl_xor_sync(kWholeWarp, total[i], lanes);
    }
    const int row = y + kAttentionSide * i;
    if (row >= tile.rows) continue;
    const bool none = tile.begin >= tile.end;
    StoreSums(args.out, tile.row + row, head * head_dim, head_dim, aligned,
              none ? A{0} : 1 / total[i], sums[i]);
    if (args.log_sum_exp && x == 0) {
      args.log_sum_exp.row<A>(head)[tile.row + row] =
          none ? -kInfinity : LogSum(largest[i], total[i]);
    }
  }
}

template <class A, int kDim>
absl::Status Forward(Execution& execution, const AttentionForwardArgs& args) {
  using Sizes = AttentionSizes<A, kDim>;
  const AttentionLayout& layout = args.layout;
  PLAIT_ASSIGN_OR_RETURN(const AttentionTiles tiles, QueryTiles(execution, layout, Sizes::kOwn));
  bool aligned = true;
  for (const ConstMatrixView& view : {args.q, args.k, args.v, ConstMatrixView(args.out)}) {
    aligned = aligned && IsAligned(view, layout.head_dim);
  }
  const size_t shared = sizeof(A) * (Sizes::kOwnTile + 2 * Sizes::kInnerTile + Sizes::kScoreTile);
  return ToStatus(
      LaunchKernel(ForwardKernel<A, kDim>,
                   {static_cast<unsigned>(tiles.count), static_cast<unsigned>(layout.heads)},
                   {kAttentionThreads}, shared, execution.compute().handle(), args, tiles.tiles,
                   static_cast<A>(layout.scale * kLog2E), aligned),
      "attention forward");
}

}  // namespace

std::string AcceptsAttentionForward(const AttentionForwardArgs& args) {
  return RefusesAttention(args.layout, args.q.dtype, {args.out.dtype});
}

absl::Status AttentionForward(Execution& execution, const AttentionForwardArgs& args) {
  return DispatchWide(args.q.dtype, [&](auto a) {
    using A = typename decltype(a)::Type;
    return DispatchHeadDim<A>(args.layout.head_dim, [&](auto dim) {
      return Forward<A, decltype(dim)::value>(execution, args);
    });
  });
}

}  // namespace plait::cuda
