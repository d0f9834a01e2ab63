// Sums and maxima over the threads of a warp or block, in an order that depends on the number of
// threads alone. All threads of the warp (block) must call; all get the result.
#pragma once

#include "kernels/cuda/device.h"

namespace plait::cuda {

inline constexpr int kWarpThreads = 32;
inline constexpr unsigned kWholeWarp = 0xffffffffu;

template <class A>
__device__ __forceinline__ A WarpSum(A value) {
  PLAIT_UNROLL
  for (int lanes = kWarpThreads / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, lanes);
  }
  return value;
}

// NaN where either is: so all threads get it, whichever had it.
template <class A>
__device__ __forceinline__ A Larger(A a, A b) {
  return b > a || b != b ? b : a;
}

template <class A>
__device__ __forceinline__ A WarpMax(A value) {
  PLAIT_UNROLL
  for (int lanes = kWarpThreads / 2; lanes > 0; lanes /= 2) {
    value = Larger(value, __shfl_xor_sync(kWholeWarp, value, lanes));
  }
  return value;
}

// Blocks of whole warps along x, at most 1024 threads. May be called again at once.
template <class A>
__device__ __forceinline__ A BlockSum(A value) {
  PLAIT_SHARED(A, warps, kWarpThreads);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  value = WarpSum(value);
  if (lane == 0) warps[warp] = value;
  __syncthreads();
  value = lane < static_cast<int>(blockDim.x) / kWarpThreads ? warps[lane] : A{0};
  value = WarpSum(value);
  __syncthreads();
  return value;
}

template <class A>
__device__ __forceinline__ A BlockMax(A value) {
  PLAIT_SHARED(A, warps, kWarpThreads);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  value = WarpMax(value);
  if (lane == 0) warps[warp] = value;
  __syncthreads();
  value = warps[lane < static_cast<int>(blockDim.x) / kWarpThreads ? lane : 0];
  value = WarpMax(value);
  __syncthreads();
  return value;
}

}  // namespace plait::cuda
