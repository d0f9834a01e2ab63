// What kernel sources are written over: CUDA where nvcc compiles them, the emulation of a block on
// the host (emulation/scheduler.h) where a host compiler does. Chosen by __CUDACC__, never by
// __CUDA_ARCH__, which no host compiler defines.
//   PLAIT_SHARED(float, tile, 64 * 32);   shared memory of the block, a pointer to so many elements
//   PLAIT_DYNAMIC_SHARED(float, rows);    that of the launch's dynamic bytes
//   PLAIT_UNROLL for (...)
// Barriers, shuffles, votes and integer atomics have their CUDA names. Arithmetic is done in
// Accumulator<T>: double for double, float for all others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/dtype.h"

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define PLAIT_UNROLL _Pragma("unroll")
#define PLAIT_SHARED(type, name, count) __shared__ alignas(32) type name[count]
#define PLAIT_DYNAMIC_SHARED(type, name)                        \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  type* const name = reinterpret_cast<type*>(name##_bytes)

namespace plait::cuda {

__device__ __forceinline__ float ToFloat(BFloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}
__device__ __forceinline__ BFloat16 ToBFloat16(float value) {
  BFloat16 rounded;
  rounded.bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
  return rounded;
}

__device__ __forceinline__ float FastExp(float x) { return __expf(x); }
__device__ __forceinline__ float FastExp2(float x) { return exp2f(x); }
__device__ __forceinline__ float FastLog(float x) { return __logf(x); }
// Zero where b is above 2^126.
__device__ __forceinline__ float FastDivide(float a, float b) { return __fdividef(a, b); }
// One instruction: zero instead of subnormal numbers.
__device__ __forceinline__ float FlushedExp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float ReciprocalSqrt(float x) { return rsqrtf(x); }

// A cudaError_t; 0: launched.
template <class... Parameters, class... Arguments>
int LaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_shared_bytes,
                 void* stream, const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return 0;
  if (dynamic_shared_bytes > 0) {  // else 48 KiB less the static arrays are the limit
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(dynamic_shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = dynamic_shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

}  // namespace plait::cuda

#else

#include "kernels/cuda/emulation/device.h"

#endif

namespace plait::cuda {

template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ __forceinline__ float Load(BFloat16 value) { return ToFloat(value); }
__device__ __forceinline__ float Load(float value) { return value; }
__device__ __forceinline__ double Load(double value) { return value; }

// One rounding to T.
template <class T, class A>
__device__ __forceinline__ T Round(A value) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return ToBFloat16(static_cast<float>(value));
  } else {
    return static_cast<T>(value);
  }
}

// kCount neighbouring elements, loaded and stored at once: their address must be a multiple of
// their size.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};

}  // namespace plait::cuda
