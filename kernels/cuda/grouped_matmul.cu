#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/device_copies.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/grouped_matmul.h"
#include "kernels/cuda/tile_product.h"

namespace plait::cuda {
namespace {

// [groups + 1] each, on the device: rows of the groups, and the tiles of rows before each.
struct GroupTiles {
  const int32_t* offsets;
  const int32_t* tiles;
  int groups;
};

// By warps, on tensor cores, for bf16.
template <class T, Along kA, Along kB, class Write>
__device__ __forceinline__ void Multiply(const TileOperand<T>& a, const TileOperand<T>& b,
                                         int inner, const Write& write) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    MultiplyTileByWarps<kA, kB>(a, b, inner, write);
  } else {
    MultiplyTile<T, kA, kB>(a, b, inner, write);
  }
}

// Block b: tile b / column_tiles of rows, b % column_tiles of columns.
template <class T, class C, Along kB>
__global__ void __launch_bounds__(kTileThreads, 2)
    ForwardKernel(GroupedMatmulArgs args, GroupTiles groups, int64_t column_tiles, bool a_aligned,
                  bool b_aligned) {
  constexpr int kOuter = TileSize<T>::kOuter;
  const int64_t tile = blockIdx.x / column_tiles;
  const int64_t first_column = blockIdx.x % column_tiles * kOuter;
  int g = 0;  // the last group whose tiles begin at `tile` or before it: empty ones end there, too
  for (int count = groups.groups; count > 1;) {
    const int half = count / 2;
    if (groups.tiles[g + half] <= tile) {
      g += half;
      count -= half;
    } else {
      count = half;
    }
  }
  const int64_t begin = groups.offsets[g] + (tile - groups.tiles[g]) * kOuter;
  const int rows = static_cast<int>(groups.offsets[g + 1] - begin);
  const int k = static_cast<int>(args.a.columns);
  const int64_t n = args.c.columns;
  const T* weights = args.b.row<T>(g * (kB == Along::kInner ? n : k));
  const int columns = static_cast<int>(n - first_column);
  TileOperand<T> a = {args.a.row<T>(0), args.a.row_stride, nullptr, rows, k, a_aligned};
  if (args.row_index != nullptr) {
    a.row_index = args.row_index + begin;
  } else {
    a.data = args.a.row<T>(begin);
  }
  TileOperand<T> b = {weights, args.b.row_stride, nullptr, columns, k, b_aligned};
  if constexpr (kB == Along::kInner) {
    b.data += first_column * args.b.row_stride;
  } else {
    b.data += first_column;
    b.rows = k;
    b.columns = columns;
  }
  Multiply<T, Along::kInner, kB>(a, b, k, [&](int r, int c, Accumulator<T> sum) {
    if (r < rows && c < columns) {
      args.c.row<C>(begin + r)[first_column + c] = Round<C>(sum);
    }
  });
}

// Block b: group b / tiles of a group, then tiles of c's columns within tiles of its rows.
template <class T>
__global__ void __launch_bounds__(kTileThreads, 2)
    WeightGradientKernel(GroupedWeightGradientArgs args, const int32_t* offsets, int64_t row_tiles,
                         int64_t column_tiles, bool a_aligned, bool b_aligned) {
  constexpr int kOuter = TileSize<T>::kOuter;
  const int64_t g = blockIdx.x / (row_tiles * column_tiles);
  const int64_t first_row = blockIdx.x / column_tiles % row_tiles * kOuter;
  const int64_t first_column = blockIdx.x % column_tiles * kOuter;
  const int64_t begin = offsets[g], m = args.a.columns;
  const int inner = static_cast<int>(offsets[g + 1] - begin);
  if (inner == 0) return;
  const int rows = static_cast<int>(m - first_row);
  const int columns = static_cast<int>(args.b.columns - first_column);
  const TileOperand<T> a = {
      args.a.row<T>(begin) + first_row, args.a.row_stride, nullptr, inner, rows, a_aligned};
  TileOperand<T> b = {
      args.b.row<T>(0) + first_column, args.b.row_stride, nullptr, inner, columns, b_aligned};
  if (args.row_index != nullptr) {
    b.row_index = args.row_index + begin;
  } else {
    b.data += begin * args.b.row_stride;
  }
  Multiply<T, Along::kOuter, Along::kOuter>(a, b, inner, [&](int r, int c, Accumulator<T> sum) {
    if (r < rows && c < columns) {
      args.c.row<Accumulator<T>>(g * m + first_row + r)[first_column + c] += sum;
    }
  });
}

bool IsAligned(const ConstMatrixView& view) {
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 &&
         view.row_stride * static_cast<int64_t>(SizeOf(view.dtype)) % 16 == 0;
}

constexpr int64_t Tiles(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

// Blocks of a launch, or an error where they are too many for one.
absl::StatusOr<unsigned> NumBlocks(int64_t blocks) {
  if (blocks <= 0x7fffffff) return static_cast<unsigned>(blocks);
  return absl::InvalidArgumentError(
      absl::StrCat("grouped_matmul: ", blocks, " tiles exceed one launch's 2^31 - 1 blocks"));
}

std::string Refuses(const ConstMatrixView& a, const ConstMatrixView& b, DType c,
                    bool c_may_be_bf16) {
  if (!IsFloating(a.dtype)) return Name(a.dtype);
  if (b.dtype != a.dtype) return absl::StrCat(Name(a.dtype), " beside ", Name(b.dtype));
  if (c != StatisticsDType(a.dtype) && !(c_may_be_bf16 && c == a.dtype)) {
    return absl::StrCat(Name(a.dtype), " to ", Name(c));
  }
  // Blocks count columns in 31 bits.
  return std::max(a.columns, b.columns) > (1 << 30) ? "more than 2^30 columns" : "";
}

}  // namespace

std::string AcceptsGroupedMatmul(const GroupedMatmulArgs& args) {
  return Refuses(args.a, args.b, args.c.dtype, /*c_may_be_bf16=*/true);
}

absl::Status GroupedMatmul(Execution& execution, const GroupedMatmulArgs& args) {
  const int64_t rows = args.c.rows, n = args.c.columns;
  if (rows == 0 || n == 0) return absl::OkStatus();
  return DispatchFloating(args.a.dtype, [&](auto t) -> absl::Status {
    using T = typename decltype(t)::Type;
    constexpr int kOuter = TileSize<T>::kOuter;
    std::vector<int32_t> table(args.offsets, args.offsets + args.groups + 1);
    int32_t row_tiles = 0;
    for (int64_t g = 0; g < args.groups; ++g) {
      table.push_back(row_tiles);
      row_tiles += static_cast<int32_t>(Tiles(args.offsets[g + 1] - args.offsets[g], kOuter));
    }
    table.push_back(row_tiles);
    const int64_t column_tiles = Tiles(n, kOuter);
    PLAIT_ASSIGN_OR_RETURN(const unsigned blocks, NumBlocks(row_tiles * column_tiles));
    PLAIT_ASSIGN_OR_RETURN(const int32_t* device_table,
                           DeviceCopy(execution, table.data(), static_cast<int64_t>(table.size())));
    const GroupTiles groups = {device_table, device_table + args.groups + 1,
                               static_cast<int>(args.groups)};
    const auto launch = [&](auto kernel) {
      return ToStatus(
          LaunchKernel(kernel, {blocks}, {kTileThreads}, 0, execution.compute().handle(), args,
                       groups, column_tiles, IsAligned(args.a), IsAligned(args.b)),
          "grouped_matmul");
    };
    const bool transposed = args.transpose_b == Transpose::kYes;
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (args.c.dtype == DType::kF32) {
        return transposed ? launch(ForwardKernel<T, float, Along::kInner>)
                          : launch(ForwardKernel<T, float, Along::kOuter>);
      }
    }
    return transposed ? launch(ForwardKernel<T, T, Along::kInner>)
                      : launch(ForwardKernel<T, T, Along::kOuter>);
  });
}

std::string AcceptsGroupedWeightGradient(const GroupedWeightGradientArgs& args) {
  return Refuses(args.a, args.b, args.c.dtype, /*c_may_be_bf16=*/false);
}

absl::Status GroupedWeightGradient(Execution& execution, const GroupedWeightGradientArgs& args) {
  const int64_t m = args.a.columns, n = args.b.columns;
  if (args.a.rows == 0 || m == 0 || n == 0) return absl::OkStatus();
  PLAIT_ASSIGN_OR_RETURN(const int32_t* offsets,
                         DeviceCopy(execution, args.offsets, args.groups + 1));
  return DispatchFloating(args.a.dtype, [&](auto t) -> absl::Status {
    using T = typename decltype(t)::Type;
    const int64_t row_tiles = Tiles(m, TileSize<T>::kOuter);
    const int64_t column_tiles = Tiles(n, TileSize<T>::kOuter);
    PLAIT_ASSIGN_OR_RETURN(const unsigned blocks,
                           NumBlocks(args.groups * row_tiles * column_tiles));
    return ToStatus(LaunchKernel(WeightGradientKernel<T>, {blocks}, {kTileThreads}, 0,
                                 execution.compute().handle(), args, offsets, row_tiles,
                                 column_tiles, IsAligned(args.a), IsAligned(args.b)),
                    "grouped_weight_gradient");
  });
}

}  // namespace plait::cuda
