// Threads over the rows of a matrix: either each thread has one vector of a row (MatrixTiling), or
// the threads along x of a block walk over a row together, whose sums they share (RowTeams).
#pragma once

#include <algorithm>
#include <bit>

#include "kernels/cuda/device.h"
#include "kernels/cuda/reduction.h"

namespace plait::cuda {

inline constexpr int kRowBlockThreads = 256;

// Blocks of (vectors of a row) x (rows).
struct MatrixTiling {
  MatrixTiling(int64_t rows, int64_t vectors) {
    threads_x = static_cast<unsigned>(std::min<uint64_t>(
        kRowBlockThreads, std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(vectors, 1)))));
    threads_y = kRowBlockThreads / threads_x;
    column_blocks = static_cast<unsigned>((vectors + threads_x - 1) / threads_x);
    blocks = static_cast<unsigned>((rows + threads_y - 1) / threads_y) * column_blocks;
  }
  unsigned blocks, column_blocks, threads_x, threads_y;
};

struct MatrixPlace {
  __device__ __forceinline__ explicit MatrixPlace(unsigned column_blocks)
      : row(static_cast<int64_t>(blockIdx.x / column_blocks) * blockDim.y + threadIdx.y),
        vector(static_cast<int64_t>(blockIdx.x % column_blocks) * blockDim.x + threadIdx.x) {}
  int64_t row, vector;
};

// A warp a row, eight rows a block, where a row is narrow; else a block a row.
struct RowTeams {
  RowTeams(int64_t rows, int64_t vectors) {
    threads_x = vectors <= 4 * kWarpThreads ? kWarpThreads : kRowBlockThreads;
    threads_y = kRowBlockThreads / threads_x;
    blocks = static_cast<unsigned>((rows + threads_y - 1) / threads_y);
  }
  unsigned blocks, threads_x, threads_y;
};

__device__ __forceinline__ int64_t TeamRow() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
}

// Over the threads along x: a whole warp, or a block. All of the team must call.
template <class A>
__device__ __forceinline__ A TeamSum(A value) {
  return blockDim.x == kWarpThreads ? WarpSum(value) : BlockSum(value);
}
template <class A>
__device__ __forceinline__ A TeamMax(A value) {
  return blockDim.x == kWarpThreads ? WarpMax(value) : BlockMax(value);
}

}  // namespace plait::cuda
