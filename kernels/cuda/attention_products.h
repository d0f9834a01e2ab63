// Tiles of attention in shared memory, in the accumulator's type A, and their products in
// registers. A block has 16 x 16 threads; thread (y, x) holds elements of rows y, y + 16, ... of a
// product. The 16 threads of a row are half of a warp: what they write for their own rows they read
// after __syncwarp().
#pragma once

#include <initializer_list>
#include <string>
#include <type_traits>

#include "kernels/attention_args.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/reduction.h"

namespace plait::cuda {

inline constexpr int kAttentionSide = 16;
inline constexpr int kAttentionThreads = kAttentionSide * kAttentionSide;
inline constexpr int64_t kMaxAttentionHeadDim = 256;

// kDim: elements of a row of a tile, the first head_dim of which are used.
template <class A, int kDim>
struct AttentionSizes {
  static constexpr bool kDouble = sizeof(A) == 8;
  // Rows of a block, and of the tiles it meets one after another.
  static constexpr int kOwn = kDouble ? (kDim > 128 ? 16 : 32) : (kDim > 128 ? 32 : 64);
  static constexpr int kInner = kDouble ? kOwn : (kDim > 64 ? 32 : 64);
  static constexpr int kPack = 16 / static_cast<int>(sizeof(A));  // elements of one access
  // Of rows in shared memory: neighbouring rows start in other banks.
  static constexpr int kStride = kDim + kPack;
  static constexpr int kScoreStride = kInner + kPack;
  // Of a thread.
  static constexpr int kRows = kOwn / kAttentionSide;
  static constexpr int kScores = kInner / kAttentionSide;  // of a row
  static constexpr int kSums = kDim / kAttentionSide;      // of a row
  // Elements of shared memory.
  static constexpr int kOwnTile = kOwn * kStride;
  static constexpr int kInnerTile = kInner * kStride;
  static constexpr int kScoreTile = kOwn * kScoreStride;
  static_assert(kDim % (kAttentionSide * kPack) == 0);
};

// body(std::integral_constant<int, kDim>) for the narrowest tiles that hold a head.
template <class A, class Body>
auto DispatchHeadDim(int64_t head_dim, Body&& body) {
  if (head_dim <= 64) return body(std::integral_constant<int, 64>());
  if constexpr (std::is_same_v<A, float>) {
    if (head_dim <= 128) return body(std::integral_constant<int, 128>());
  }
  return body(std::integral_constant<int, 256>());
}

// Whether each head of each row can be reached 16 bytes at a time.
inline bool IsAligned(const ConstMatrixView& view, int64_t head_dim) {
  const auto bytes = static_cast<int64_t>(SizeOf(view.dtype));
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.row_stride * bytes % 16 == 0 &&
         head_dim * bytes % 16 == 0;
}

// Why attention's own kernels cannot take it; empty if they can. results: of out, or dq, dk and dv.
inline std::string RefusesAttention(const AttentionLayout& layout, DType dtype,
                                    std::initializer_list<DType> results) {
  if (dtype != DType::kBf16 && dtype != DType::kF32 && dtype != DType::kF64) {
    return "dtypes other than bf16, f32 and f64";
  }
  for (const DType result : results) {
    if (result != dtype && result != StatisticsDType(dtype)) return "results of another precision";
  }
  if (layout.head_dim > kMaxAttentionHeadDim) return "heads of more than 256 elements";
  if (layout.heads > 65535) return "more than 65535 heads";
  return "";
}

// One head of some rows of a matrix.
struct HeadRows {
  ConstMatrixView matrix;
  int64_t column;
  int head_dim;
  bool aligned;
};

template <class T, class A, int kDim>
__device__ __forceinline__ void LoadTileOf(const HeadRows& from, int64_t row, int rows,
                                           int tile_rows, A* tile) {
  constexpr int kStride = AttentionSizes<A, kDim>::kStride;
  constexpr int kPack = AttentionSizes<A, kDim>::kPack;
  constexpr int kWidth = 16 / static_cast<int>(sizeof(T));
  const int64_t row_stride = from.matrix.row_stride;
  const T* first = static_cast<const T*>(from.matrix.data) + row * row_stride + from.column;
  if (from.aligned) {
    constexpr int kPacks = kDim / kWidth;
    for (int i = static_cast<int>(threadIdx.x); i < tile_rows * kPacks; i += kAttentionThreads) {
      const int r = i / kPacks, d = i % kPacks * kWidth;
      Pack<T, kWidth> values = {};
      if (r < rows && d < from.head_dim) {
        values = *reinterpret_cast<const Pack<T, kWidth>*>(first + r * row_stride + d);
      }
      PLAIT_UNROLL
      for (int e = 0; e < kWidth; e += kPack) {
        Pack<A, kPack> wide;
        PLAIT_UNROLL
        for (int p = 0; p < kPack; ++p) wide.values[p] = Load(values.values[e + p]);
        *reinterpret_cast<Pack<A, kPack>*>(tile + r * kStride + d + e) = wide;
      }
    }
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < tile_rows * kDim; i += kAttentionThreads) {
      const int r = i / kDim, d = i % kDim;
      tile[r * kStride + d] =
          r < rows && d < from.head_dim ? static_cast<A>(Load(first[r * row_stride + d])) : A{0};
    }
  }
}

// tile: [tile_rows, kStride]; elements beyond the rows and the head become 0. All threads of the
// block call.
template <class A, int kDim>
__device__ __forceinline__ void LoadTile(const HeadRows& from, int64_t row, int rows, int tile_rows,
                                         A* tile) {
  if constexpr (std::is_same_v<A, double>) {
    LoadTileOf<double, A, kDim>(from, row, rows, tile_rows, tile);
  } else if (from.matrix.dtype == DType::kBf16) {
    LoadTileOf<BFloat16, A, kDim>(from, row, rows, tile_rows, tile);
  } else {
    LoadTileOf<float, A, kDim>(from, row, rows, tile_rows, tile);
  }
}

// scores[i][j] = a[y + 16 i] . b[x + 16 j]
template <class A, int kDim, int kRows, int kScores>
__device__ __forceinline__ void RowProducts(const A* a, const A* b, int head_dim,
                                            A (&scores)[kRows][kScores]) {
  using Sizes = AttentionSizes<A, kDim>;
  constexpr int kPack = Sizes::kPack;
  using Values = Pack<A, kPack>;
  const int y = static_cast<int>(threadIdx.x) / kAttentionSide;
  const int x = static_cast<int>(threadIdx.x) % kAttentionSide;
  PLAIT_UNROLL
  for (int i = 0; i < kRows; ++i) {
    PLAIT_UNROLL
    for (int j = 0; j < kScores; ++j) scores[i][j] = 0;
  }
  for (int d = 0; d < head_dim; d += kPack) {
    Values rows[kRows];
    PLAIT_UNROLL
    for (int i = 0; i < kRows; ++i) {
      rows[i] = *reinterpret_cast<const Values*>(a + (y + kAttentionSide * i) * Sizes::kStride + d);
    }
    PLAIT_UNROLL
    for (int j = 0; j < kScores; ++j) {
      const Values column =
          *reinterpret_cast<const Values*>(b + (x + kAttentionSide * j) * Sizes::kStride + d);
      PLAIT_UNROLL
      for (int i = 0; i < kRows; ++i) {
        PLAIT_UNROLL
        for (int e = 0; e < kPack; ++e) scores[i][j] += rows[i].values[e] * column.values[e];
      }
    }
  }
}

// Of sums[i][c], the column of the head: threads of a row hold neighbouring packs.
template <class A>
__device__ __forceinline__ int SumColumn(int c) {
  constexpr int kPack = 16 / static_cast<int>(sizeof(A));
  const int x = static_cast<int>(threadIdx.x) % kAttentionSide;
  return c / kPack * kAttentionSide * kPack + x * kPack + c % kPack;
}

// sums[i][c] += sum_j weights[y + 16 i][j] b[j][SumColumn(c)], over the kInner rows of b.
template <class A, int kDim, int kRows, int kSums>
__device__ __forceinline__ void AddWeightedRows(const A* weights, const A* b,
                                                A (&sums)[kRows][kSums]) {
  using Sizes = AttentionSizes<A, kDim>;
  constexpr int kPack = Sizes::kPack;
  using Values = Pack<A, kPack>;
  const int y = static_cast<int>(threadIdx.x) / kAttentionSide;
  for (int j = 0; j < Sizes::kInner; j += kPack) {
    Values row_weights[kRows];
    PLAIT_UNROLL
    for (int i = 0; i < kRows; ++i) {
      row_weights[i] = *reinterpret_cast<const Values*>(
          weights + (y + kAttentionSide * i) * Sizes::kScoreStride + j);
    }
    PLAIT_UNROLL
    for (int e = 0; e < kPack; ++e) {
      PLAIT_UNROLL
      for (int c = 0; c < kSums; c += kPack) {
        const Values values =
            *reinterpret_cast<const Values*>(b + (j + e) * Sizes::kStride + SumColumn<A>(c));
        PLAIT_UNROLL
        for (int i = 0; i < kRows; ++i) {
          PLAIT_UNROLL
          for (int v = 0; v < kPack; ++v) {
            sums[i][c + v] += row_weights[i].values[e] * values.values[v];
          }
        }
      }
    }
  }
}

template <class T, class A, int kSums>
__device__ __forceinline__ void StoreSumsAs(const MatrixView& to, int64_t row, int64_t column,
                                            int head_dim, bool aligned, A factor,
                                            const A (&sums)[kSums]) {
  constexpr int kPack = 16 / static_cast<int>(sizeof(A));
  T* head = to.row<T>(row) + column;
  PLAIT_UNROLL
  for (int c = 0; c < kSums; c += kPack) {
    const int d = SumColumn<A>(c);
    Pack<T, kPack> values;
    PLAIT_UNROLL
    for (int v = 0; v < kPack; ++v) values.values[v] = Round<T>(sums[c + v] * factor);
    if (aligned) {
      if (d < head_dim) *reinterpret_cast<Pack<T, kPack>*>(head + d) = values;
    } else {
      PLAIT_UNROLL
      for (int v = 0; v < kPack; ++v) {
        if (d + v < head_dim) head[d + v] = values.values[v];
      }
    }
  }
}

// A thread's part of one row of a result: factor * sums.
template <class A, int kSums>
__device__ __forceinline__ void StoreSums(const MatrixView& to, int64_t row, int64_t column,
                                          int head_dim, bool aligned, A factor,
                                          const A (&sums)[kSums]) {
  if constexpr (std::is_same_v<A, double>) {
    StoreSumsAs<double>(to, row, column, head_dim, aligned, factor, sums);
  } else if (to.dtype == DType::kBf16) {
    StoreSumsAs<BFloat16>(to, row, column, head_dim, aligned, factor, sums);
  } else {
    StoreSumsAs<float>(to, row, column, head_dim, aligned, factor, sums);
  }
}

template <class A>
__device__ __forceinline__ A Exp2(A x) {
  if constexpr (std::is_same_v<A, double>) {
    return exp2(x);
  } else {
    return FastExp2(x);
  }
}

inline constexpr double kLog2E = 1.4426950408889634;

}  // namespace plait::cuda
