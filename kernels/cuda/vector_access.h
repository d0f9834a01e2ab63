// Accesses of 16 bytes: kCount neighbouring elements of a row, loaded and stored at once where
// their address is a multiple of their size (of 16 bytes, where they have more), one by one where
// kCount is 1.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "base/view.h"
#include "kernels/cuda/device.h"

namespace plait::cuda {

inline constexpr int kAccessBytes = 16;

// Elements that a thread takes at once: 16 bytes of the smallest type, more of the others.
template <class... T>
inline constexpr int kVectorElements =
    kAccessBytes / static_cast<int>(std::min(std::initializer_list<size_t>{sizeof(T)...}));

// `count`: of the elements that exist, at most kCount; fewer in the last vector of a row.
template <int kCount, class T>
__device__ __forceinline__ void LoadVector(const T* from, int64_t count, T (&to)[kCount]) {
  constexpr int kFit = kAccessBytes / static_cast<int>(sizeof(T));
  constexpr int kTogether = kCount < kFit ? kCount : kFit;
  if (count >= kCount) {
    PLAIT_UNROLL
    for (int i = 0; i < kCount; i += kTogether) {
      const auto pack = *reinterpret_cast<const Pack<T, kTogether>*>(from + i);
      PLAIT_UNROLL
      for (int j = 0; j < kTogether; ++j) to[i + j] = pack.values[j];
    }
  } else {
    PLAIT_UNROLL
    for (int i = 0; i < kCount; ++i) to[i] = i < count ? from[i] : T{};
  }
}

template <int kCount, class T>
__device__ __forceinline__ void StoreVector(const T (&from)[kCount], int64_t count, T* to) {
  constexpr int kFit = kAccessBytes / static_cast<int>(sizeof(T));
  constexpr int kTogether = kCount < kFit ? kCount : kFit;
  if (count >= kCount) {
    PLAIT_UNROLL
    for (int i = 0; i < kCount; i += kTogether) {
      Pack<T, kTogether> pack;
      PLAIT_UNROLL
      for (int j = 0; j < kTogether; ++j) pack.values[j] = from[i + j];
      *reinterpret_cast<Pack<T, kTogether>*>(to + i) = pack;
    }
  } else {
    PLAIT_UNROLL
    for (int i = 0; i < kCount; ++i) {
      if (i < count) to[i] = from[i];
    }
  }
}

// Whether a vector of `count` elements may begin at every count-th element from `data` on.
inline bool IsAligned(const void* data, DType dtype, int count) {
  const size_t bytes = std::min(SizeOf(dtype) * static_cast<size_t>(count), size_t{kAccessBytes});
  return reinterpret_cast<uintptr_t>(data) % bytes == 0;
}
inline bool IsAligned(const ConstVectorView& view, int count) {
  return IsAligned(view.data, view.dtype, count);
}
// Of every row.
inline bool IsAligned(const ConstMatrixView& view, int count) {
  return IsAligned(view.data, view.dtype, count) &&
         (view.rows <= 1 || view.row_stride % count == 0);
}

// body(std::integral_constant<int, kCount>) where all accesses are aligned, else with 1.
template <int kCount, class Body>
auto DispatchVector(bool aligned, Body&& body) {
  if (aligned) return body(std::integral_constant<int, kCount>());
  return body(std::integral_constant<int, 1>());
}

}  // namespace plait::cuda
