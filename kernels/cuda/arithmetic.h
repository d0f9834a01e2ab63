// Functions that kernels compute with, by the type of their Accumulator: the device's quick ones in
// float where a few units of error are below what the output rounds, else exact ones.
#pragma once

#include <cmath>

#include "kernels/cuda/device.h"

namespace plait::cuda {

__device__ __forceinline__ float Exp(float x) { return FastExp(x); }
__device__ __forceinline__ double Exp(double x) { return exp(x); }
__device__ __forceinline__ float Log(float x) { return logf(x); }
__device__ __forceinline__ double Log(double x) { return log(x); }
__device__ __forceinline__ float Expm1(float x) { return expm1f(x); }
__device__ __forceinline__ double Expm1(double x) { return expm1(x); }
__device__ __forceinline__ float SquareRoot(float x) { return sqrtf(x); }
__device__ __forceinline__ double SquareRoot(double x) { return sqrt(x); }
__device__ __forceinline__ float Magnitude(float x) { return fabsf(x); }
__device__ __forceinline__ double Magnitude(double x) { return fabs(x); }

// a * b + c, rounded once: written out where bits must not depend on what a compiler joins.
__device__ __forceinline__ float MultiplyAdd(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double MultiplyAdd(double a, double b, double c) { return fma(a, b, c); }

}  // namespace plait::cuda
