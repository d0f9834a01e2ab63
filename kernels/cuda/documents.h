// Documents of a packed microbatch on the device, by their offsets [documents + 1].
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"

namespace plait::cuda {

struct DeviceDocument {
  int64_t index, begin, end;  // tokens [begin, end)
};

// The document that token t lies in, 0 <= t < tokens; the others that start at its begin are empty.
__device__ __forceinline__ DeviceDocument DocumentOf(const int32_t* offsets, int64_t documents,
                                                     int64_t t) {
  int64_t low = 0, high = documents;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (offsets[middle] <= t ? low : high) = middle;
  }
  return {low, offsets[low], offsets[low + 1]};
}

// The next one that has tokens: there must be one.
__device__ __forceinline__ DeviceDocument NextDocument(const int32_t* offsets,
                                                       const DeviceDocument& document) {
  int64_t index = document.index + 1;
  while (offsets[index + 1] == document.end) ++index;
  return {index, document.end, offsets[index + 1]};
}

// The one before that has tokens: there must be one.
__device__ __forceinline__ DeviceDocument PreviousDocument(const int32_t* offsets,
                                                           const DeviceDocument& document) {
  int64_t index = document.index - 1;
  while (offsets[index] == document.begin) --index;
  return {index, offsets[index], document.begin};
}

}  // namespace plait::cuda
