// Products of bf16 tiles by the threads of a warp together, on tensor cores; on an emulated device
// each lane multiplies its own elements (emulation/warp_product.h).
#pragma once

#include "kernels/cuda/device.h"

namespace plait::cuda {

// Of an operand's two indices, the one whose elements are neighbours in memory: that which the
// product sums over, or that of c's rows (columns).
enum class Along { kInner, kOuter };

}  // namespace plait::cuda

#ifdef __CUDACC__

#include <mma.h>

namespace plait::cuda {

// The f32 sums of a tile of kRows x 16 rows and kColumns x 16 columns. All lanes call everything.
template <int kRows, int kColumns, Along kA, Along kB>
class WarpProduct {
 public:
  __device__ __forceinline__ WarpProduct() {
    PLAIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      PLAIT_UNROLL
      for (int c = 0; c < kColumns; ++c) nvcuda::wmma::fill_fragment(sums_[r][c], 0.0f);
    }
  }

  // Adds the product over 16 inner indices. a and b are in shared memory, aligned to 32 bytes, with
  // strides that are multiples of 8 elements.
  __device__ __forceinline__ void Add(const BFloat16* a, int a_stride, const BFloat16* b,
                                      int b_stride) {
    nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, __nv_bfloat16, BLayout>
        columns[kColumns];
    PLAIT_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      const BFloat16* at = b + c * 16 * (kB == Along::kInner ? b_stride : 1);
      nvcuda::wmma::load_matrix_sync(columns[c], reinterpret_cast<const __nv_bfloat16*>(at),
                                     static_cast<unsigned>(b_stride));
    }
    PLAIT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, __nv_bfloat16, ALayout> rows;
      const BFloat16* at = a + r * 16 * (kA == Along::kInner ? a_stride : 1);
      nvcuda::wmma::load_matrix_sync(rows, reinterpret_cast<const __nv_bfloat16*>(at),
                                     static_cast<unsigned>(a_stride));
      PLAIT_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        nvcuda::wmma::mma_sync(sums_[r][c], rows, columns[c], sums_[r][c]);
      }
    }
  }

  // Sums of 16 rows from r x 16 on, of all columns, to shared memory: row-major, aligned to 32
  // bytes, a stride that is a multiple of 4.
  __device__ __forceinline__ void StoreRows(int r, float* to, int stride) const {
    PLAIT_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      nvcuda::wmma::store_matrix_sync(to + c * 16, sums_[r][c], static_cast<unsigned>(stride),
                                      nvcuda::wmma::mem_row_major);
    }
  }

 private:
  using ALayout =
      std::conditional_t<kA == Along::kInner, nvcuda::wmma::row_major, nvcuda::wmma::col_major>;
  using BLayout =
      std::conditional_t<kB == Along::kInner, nvcuda::wmma::col_major, nvcuda::wmma::row_major>;
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> sums_[kRows][kColumns];
};

}  // namespace plait::cuda

#else

#include "kernels/cuda/emulation/warp_product.h"

#endif
