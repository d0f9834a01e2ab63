// The words of CUDA that kernels use, for a host compiler: see scheduler.h. Included by
// kernels/cuda/device.h alone.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "base/dtype.h"
#include "kernels/cuda/emulation/device_memory.h"
#include "kernels/cuda/emulation/scheduler.h"

#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define PLAIT_UNROLL

#define threadIdx (::plait::emulation::current.thread)
#define blockIdx (::plait::emulation::current.block)
#define blockDim (::plait::emulation::current.block_size)
#define gridDim (::plait::emulation::current.grid)

#define PLAIT_SHARED(type, name, count)                                                       \
  static constexpr char name##_key = 0;                                                       \
  type* const name = static_cast<type*>(                                                      \
      ::plait::emulation::SharedArray(&name##_key, sizeof(type) * static_cast<size_t>(count), \
                                      ::plait::emulation::Site{__FILE__, __LINE__}))
#define PLAIT_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(::plait::emulation::DynamicShared())

#define PLAIT_HERE \
  ::plait::emulation::Site { file, line }

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  ::plait::emulation::BlockBarrier(PLAIT_HERE);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
  ::plait::emulation::WarpBarrier(mask, PLAIT_HERE);
}

namespace plait::emulation {

// The lanes [first, end) that a shuffle of `width` lanes takes together.
struct Segment {
  unsigned lane, width, first, end;
};
inline Segment SegmentOf(int width, Site site) {
  const auto w = static_cast<unsigned>(width);
  if (w == 0 || w > 32 || !std::has_single_bit(w)) Fail(site, "a width that is no power of two");
  const unsigned lane = Lane();
  return {lane, w, lane / w * w, lane / w * w + w};
}

template <class T>
T ShuffleValue(unsigned mask, T value, unsigned source, Site site) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = Shuffle(mask, bits, source, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace plait::emulation

// A lane whose source would be outside of its segment gets its own value; by xor, earlier segments
// may be read.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const auto segment = ::plait::emulation::SegmentOf(width, PLAIT_HERE);
  return ::plait::emulation::ShuffleValue(
      mask, value, segment.first + static_cast<unsigned>(source) % segment.width, PLAIT_HERE);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                  const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const auto segment = ::plait::emulation::SegmentOf(width, PLAIT_HERE);
  const unsigned other = segment.lane ^ static_cast<unsigned>(lanes);
  return ::plait::emulation::ShuffleValue(mask, value, other < segment.end ? other : segment.lane,
                                          PLAIT_HERE);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32,
                 const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const auto segment = ::plait::emulation::SegmentOf(width, PLAIT_HERE);
  const bool inside = segment.lane - segment.first >= lanes;
  return ::plait::emulation::ShuffleValue(mask, value, inside ? segment.lane - lanes : segment.lane,
                                          PLAIT_HERE);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32,
                   const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const auto segment = ::plait::emulation::SegmentOf(width, PLAIT_HERE);
  const bool inside = lanes < segment.end - segment.lane;
  return ::plait::emulation::ShuffleValue(mask, value, inside ? segment.lane + lanes : segment.lane,
                                          PLAIT_HERE);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
  return ::plait::emulation::Ballot(mask, predicate != 0, PLAIT_HERE);
}
inline int __any_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  return ::plait::emulation::Ballot(mask, predicate != 0, PLAIT_HERE) != 0;
}
inline int __all_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  return ::plait::emulation::Ballot(mask, predicate != 0, PLAIT_HERE) == mask;
}

// Integers only: sums of floats in the order of arrival are not reproducible.
template <class T, class U>
T atomicAdd(T* at, U value) {
  static_assert(std::is_integral_v<T>);
  ::plait::emulation::BeforeAtomic();
  return __atomic_fetch_add(at, static_cast<T>(value), __ATOMIC_RELAXED);
}
template <class T, class U>
T atomicMax(T* at, U value) {
  static_assert(std::is_integral_v<T>);
  ::plait::emulation::BeforeAtomic();
  T seen = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (seen < static_cast<T>(value) &&
         !__atomic_compare_exchange_n(at, &seen, static_cast<T>(value), false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
  return seen;
}

inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return std::countl_zero(static_cast<unsigned>(bits)); }

namespace plait::cuda {

inline float ToFloat(BFloat16 value) { return static_cast<float>(value); }
inline BFloat16 ToBFloat16(float value) { return BFloat16(value); }

// Quick functions of the device; here exact ones.
inline float FastExp(float x) { return std::exp(x); }
inline float FastExp2(float x) { return std::exp2(x); }
inline float FastLog(float x) { return std::log(x); }
inline float FastDivide(float a, float b) { return a / b; }
inline float FlushedExp2(float x) { return std::exp2(x); }
inline float ReciprocalSqrt(float x) { return 1.0f / std::sqrt(x); }

template <class... Parameters, class... Arguments>
int LaunchKernel(void (*kernel)(Parameters...), emulation::Dimensions grid,
                 emulation::Dimensions block, size_t dynamic_shared_bytes, void* /*stream*/,
                 const Arguments&... arguments) {
  const std::tuple<Parameters...> kept(arguments...);
  const emulation::DeviceMemoryAccess access;
  emulation::RunGrid(reinterpret_cast<const void*>(kernel), grid, block, dynamic_shared_bytes,
                     [&] { std::apply(kernel, kept); });
  return 0;
}

}  // namespace plait::cuda

#undef PLAIT_HERE
