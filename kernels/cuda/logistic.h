// 1 / (1 + exp(-x)) and what follows from it, in f32 and f64.
#pragma once

#include "kernels/cuda/device.h"

namespace plait::cuda {

inline constexpr double kLog2E = 1.4426950408889634;
inline constexpr double kLn2 = 0.6931471805599453;

__device__ __forceinline__ float Logistic(float x) {
  return FastDivide(1.0f, 1.0f + FlushedExp2(static_cast<float>(-kLog2E) * x));
}
__device__ __forceinline__ double Logistic(double x) { return 1.0 / (1.0 + exp(-x)); }

// The derivative of silu(x) = x sigmoid, with sigmoid = Logistic(x).
template <class A>
__device__ __forceinline__ A SiluSlope(A x, A sigmoid) {
  return sigmoid * (A{1} + x * (A{1} - sigmoid));
}

}  // namespace plait::cuda
