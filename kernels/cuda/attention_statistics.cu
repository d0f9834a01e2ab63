#include "kernels/cuda/attention_statistics.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/reduction.h"
#include "kernels/cuda/runtime.h"

namespace plait::cuda {
namespace {

constexpr int kSide = kWarpThreads;  // of a tile
constexpr int kTileRows = 8;         // rows of threads, each for every eighth row of a tile

// Blocks walk over tiles, row by row of tiles.
__global__ void __launch_bounds__(kSide* kTileRows)
    TransposeKernel(ConstMatrixView from, MatrixView to) {
  PLAIT_SHARED(float, tile, kSide*(kSide + 1));
  const int lane = static_cast<int>(threadIdx.x) % kSide;
  const int first = static_cast<int>(threadIdx.x) / kSide;
  const int64_t tiles_across = (from.columns + kSide - 1) / kSide;
  const int64_t tiles = tiles_across * ((from.rows + kSide - 1) / kSide);
  for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const int64_t row = t / tiles_across * kSide, column = t % tiles_across * kSide;
    for (int r = first; r < kSide && row + r < from.rows; r += kTileRows) {
      if (column + lane < from.columns) {
        tile[r * (kSide + 1) + lane] = from.row<float>(row + r)[column + lane];
      }
    }
    __syncthreads();
    for (int c = first; c < kSide && column + c < from.columns; c += kTileRows) {
      if (row + lane < from.rows) {
        to.row<float>(column + c)[row + lane] = tile[lane * (kSide + 1) + c];
      }
    }
    __syncthreads();
  }
}

}  // namespace

absl::Status TransposeStatistics(Execution& execution, const ConstMatrixView& from,
                                 const MatrixView& to) {
  const int64_t tiles = ((from.rows + kSide - 1) / kSide) * ((from.columns + kSide - 1) / kSide);
  const int64_t blocks = tiles < 1056 ? tiles : 1056;  // 8 a multiprocessor
  return ToStatus(LaunchKernel(TransposeKernel, {static_cast<unsigned>(blocks)},
                               {kSide * kTileRows}, 0, execution.compute().handle(), from, to),
                  "transposing attention's statistics");
}

}  // namespace plait::cuda
