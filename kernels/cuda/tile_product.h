// The product of one tile of c by one block: c[m, n] = sum over k of a[m, k] b[n, k], operands in
// tiles through shared memory, the next ones fetched into registers while these are multiplied.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/reduction.h"
#include "kernels/cuda/warp_product.h"

namespace plait::cuda {

inline constexpr int kTileThreads = 256;

// Sizes of a block's tile: rows and columns of c (outer) and what is summed over (inner) at once.
template <class T>
struct TileSize {
  static constexpr int kOuter = 64, kInner = 16;
};
template <>
struct TileSize<BFloat16> {
  static constexpr int kOuter = 128, kInner = 32;
};

// An operand, from the tile's first outer index on. Row r of its matrix is `data`'s row
// row_index[r] (r itself where that is absent); rows are the outer index and columns the inner
// one, or the other way round (Along). What lies outside of rows and columns counts as zero.
template <class T>
struct TileOperand {
  const T* data;
  int64_t stride;
  const int32_t* row_index;
  int rows, columns;
  bool is_aligned;  // 16 bytes at once wherever a multiple of their elements begins
};

template <class T, Along kAlong>
class TileLoader {
 public:
  static constexpr int kRows = kAlong == Along::kInner ? TileSize<T>::kOuter : TileSize<T>::kInner;
  static constexpr int kColumns =
      kAlong == Along::kInner ? TileSize<T>::kInner : TileSize<T>::kOuter;
  static constexpr int kCount = 16 / sizeof(T);
  static constexpr int kPacks = kRows * kColumns / (kTileThreads * kCount);

  __device__ __forceinline__ void Fetch(const TileOperand<T>& operand, int inner) {
    PLAIT_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      const int r = Row(p) + (kAlong == Along::kInner ? 0 : inner);
      const int c = Column(p) + (kAlong == Along::kInner ? inner : 0);
      packs_[p] = {};
      if (r >= operand.rows) continue;
      const T* row =
          operand.data +
          int64_t{operand.row_index != nullptr ? operand.row_index[r] : r} * operand.stride;
      if (operand.is_aligned && c + kCount <= operand.columns) {
        packs_[p] = *reinterpret_cast<const Pack<T, kCount>*>(row + c);
      } else {
        PLAIT_UNROLL
        for (int i = 0; i < kCount; ++i) {
          if (c + i < operand.columns) packs_[p].values[i] = row[c + i];
        }
      }
    }
  }

  // As the matrix has them: rows of kColumns elements.
  __device__ __forceinline__ void Put(T* tile, int stride) const {
    PLAIT_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      *reinterpret_cast<Pack<T, kCount>*>(tile + Row(p) * stride + Column(p)) = packs_[p];
    }
  }
  // Inner indices as rows of the tile, whichever the matrix has.
  __device__ __forceinline__ void PutInnerRows(T* tile, int stride) const {
    if constexpr (kAlong == Along::kOuter) {
      Put(tile, stride);
    } else {
      PLAIT_UNROLL
      for (int p = 0; p < kPacks; ++p) {
        PLAIT_UNROLL
        for (int i = 0; i < kCount; ++i) {
          tile[(Column(p) + i) * stride + Row(p)] = packs_[p].values[i];
        }
      }
    }
  }

 private:
  static constexpr int kRowPacks = kColumns / kCount;
  __device__ __forceinline__ static int Row(int p) {
    return (p * kTileThreads + static_cast<int>(threadIdx.x)) / kRowPacks;
  }
  __device__ __forceinline__ static int Column(int p) {
    return (p * kTileThreads + static_cast<int>(threadIdx.x)) % kRowPacks * kCount;
  }

  Pack<T, kCount> packs_[kPacks];
};

// kTotal neighbouring elements, 16 bytes at once.
template <int kTotal, class T>
__device__ __forceinline__ void ReadPacks(const T* from, T* to) {
  constexpr int kCount = 16 / sizeof(T);
  PLAIT_UNROLL
  for (int i = 0; i < kTotal; i += kCount) {
    *reinterpret_cast<Pack<T, kCount>*>(to + i) =
        *reinterpret_cast<const Pack<T, kCount>*>(from + i);
  }
}

// Walks over the inner index by tiles: put(a's loader, b's loader) stores the tile that they hold
// in shared memory, multiply() adds its products, while the loaders fetch the next one.
template <class T, Along kA, Along kB, class Put, class Multiply>
__device__ __forceinline__ void ForEachTile(const TileOperand<T>& a, const TileOperand<T>& b,
                                            int inner, const Put& put, const Multiply& multiply) {
  constexpr int kInner = TileSize<T>::kInner;
  TileLoader<T, kA> a_loader;
  TileLoader<T, kB> b_loader;
  a_loader.Fetch(a, 0);
  b_loader.Fetch(b, 0);
  for (int k = 0; k < inner; k += kInner) {
    put(a_loader, b_loader);
    __syncthreads();
    if (k + kInner < inner) {
      a_loader.Fetch(a, k + kInner);
      b_loader.Fetch(b, k + kInner);
    }
    multiply();
    __syncthreads();
  }
}

// f32 and f64. write(m, n, sum) for every element of the tile, also those outside of c.
template <class T, Along kA, Along kB, class Write>
__device__ __forceinline__ void MultiplyTile(const TileOperand<T>& a, const TileOperand<T>& b,
                                             int inner, const Write& write) {
  constexpr int kOuter = TileSize<T>::kOuter, kInner = TileSize<T>::kInner;
  constexpr int kOwn = 4;              // rows and columns of a thread
  constexpr int kStride = kOuter + 4;  // whole packs, other banks from row to row
  PLAIT_SHARED(T, a_tile, kInner * kStride);
  PLAIT_SHARED(T, b_tile, kInner * kStride);
  const int first_row = static_cast<int>(threadIdx.x) / (kOuter / kOwn) * kOwn;
  const int first_column = static_cast<int>(threadIdx.x) % (kOuter / kOwn) * kOwn;
  T sums[kOwn][kOwn] = {};
  const auto put = [&](const auto& a_loader, const auto& b_loader) {
    a_loader.PutInnerRows(a_tile, kStride);
    b_loader.PutInnerRows(b_tile, kStride);
  };
  ForEachTile<T, kA, kB>(a, b, inner, put, [&] {
    PLAIT_UNROLL
    for (int i = 0; i < kInner; ++i) {
      alignas(16) T rows[kOwn], columns[kOwn];
      ReadPacks<kOwn>(a_tile + i * kStride + first_row, rows);
      ReadPacks<kOwn>(b_tile + i * kStride + first_column, columns);
      PLAIT_UNROLL
      for (int r = 0; r < kOwn; ++r) {
        PLAIT_UNROLL
        for (int c = 0; c < kOwn; ++c) sums[r][c] += rows[r] * columns[c];
      }
    }
  });
  PLAIT_UNROLL
  for (int r = 0; r < kOwn; ++r) {
    PLAIT_UNROLL
    for (int c = 0; c < kOwn; ++c) write(first_row + r, first_column + c, sums[r][c]);
  }
}

// bf16, sums in f32: a warp has 64 rows and 32 columns.
template <Along kA, Along kB, class Write>
__device__ __forceinline__ void MultiplyTileByWarps(const TileOperand<BFloat16>& a,
                                                    const TileOperand<BFloat16>& b, int inner,
                                                    const Write& write) {
  using ALoader = TileLoader<BFloat16, kA>;
  using BLoader = TileLoader<BFloat16, kB>;
  constexpr int kInner = TileSize<BFloat16>::kInner;
  constexpr int kWarpRows = 64, kWarpColumns = 32;
  constexpr int kColumnWarps = TileSize<BFloat16>::kOuter / kWarpColumns;
  // Whole packs, other banks from row to row.
  constexpr int kAStride = ALoader::kColumns + 8, kBStride = BLoader::kColumns + 8;
  constexpr int kSumStride = kWarpColumns + 4;
  // Shared memory has no constructors, which BFloat16 has.
  PLAIT_SHARED(uint16_t, a_bits, ALoader::kRows * kAStride);
  PLAIT_SHARED(uint16_t, b_bits, BLoader::kRows * kBStride);
  auto* const a_tile = reinterpret_cast<BFloat16*>(a_bits);
  auto* const b_tile = reinterpret_cast<BFloat16*>(b_bits);
  PLAIT_SHARED(float, sums, kTileThreads / kWarpThreads * 16 * kSumStride);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int first_row = warp / kColumnWarps * kWarpRows;
  const int first_column = warp % kColumnWarps * kWarpColumns;
  WarpProduct<kWarpRows / 16, kWarpColumns / 16, kA, kB> product;
  const auto put = [&](const ALoader& a_loader, const BLoader& b_loader) {
    a_loader.Put(a_tile, kAStride);
    b_loader.Put(b_tile, kBStride);
  };
  ForEachTile<BFloat16, kA, kB>(a, b, inner, put, [&] {
    PLAIT_UNROLL
    for (int i = 0; i < kInner; i += 16) {
      product.Add(
          a_tile + (kA == Along::kInner ? first_row * kAStride + i : i * kAStride + first_row),
          kAStride,
          b_tile +
              (kB == Along::kInner ? first_column * kBStride + i : i * kBStride + first_column),
          kBStride);
    }
  });
  float* const own_sums = sums + warp * 16 * kSumStride;
  PLAIT_UNROLL
  for (int r = 0; r < kWarpRows / 16; ++r) {
    product.StoreRows(r, own_sums, kSumStride);
    __syncwarp();
    for (int i = 0; i < 16; ++i) {
      write(first_row + r * 16 + i, first_column + lane, own_sums[i * kSumStride + lane]);
    }
    __syncwarp();
  }
}

}  // namespace plait::cuda
