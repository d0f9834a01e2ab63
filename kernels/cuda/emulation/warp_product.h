// The host's twin of WarpProduct. Included by kernels/cuda/warp_product.h alone.
#pragma once

namespace plait::cuda {

// Lane l has columns l % 2 x 8 to + 7 of row l / 2, in each 16 x 16 part of the tile.
template <int kRows, int kColumns, Along kA, Along kB>
class WarpProduct {
 public:
  void Add(const BFloat16* a, int a_stride, const BFloat16* b, int b_stride) {
    for (int r = 0; r < kRows; ++r) {
      for (int k = 0; k < 16; ++k) {
        const int row = r * 16 + Row();
        const float factor =
            ToFloat(kA == Along::kInner ? a[row * a_stride + k] : a[k * a_stride + row]);
        for (int c = 0; c < kColumns; ++c) {
          for (int i = 0; i < 8; ++i) {
            const int column = c * 16 + Column() + i;
            sums_[r][c][i] += factor * ToFloat(kB == Along::kInner ? b[column * b_stride + k]
                                                                   : b[k * b_stride + column]);
          }
        }
      }
    }
  }

  void StoreRows(int r, float* to, int stride) const {
    for (int c = 0; c < kColumns; ++c) {
      for (int i = 0; i < 8; ++i) to[Row() * stride + c * 16 + Column() + i] = sums_[r][c][i];
    }
  }

 private:
  static int Row() { return static_cast<int>(emulation::Lane() / 2); }
  static int Column() { return static_cast<int>(emulation::Lane() % 2 * 8); }

  float sums_[kRows][kColumns][8] = {};
};

}  // namespace plait::cuda
