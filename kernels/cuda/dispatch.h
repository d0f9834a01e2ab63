// Element types of a kernel's arguments as types, and the blocks of a launch.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/dtype.h"
#include "kernels/cuda/runtime.h"

namespace plait::cuda {

template <class T>
struct TypeTag {
  using Type = T;
};

// body(TypeTag<T>) for bf16, f32 and f64, which kernels compute with.
template <class Body>
auto DispatchFloating(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kBf16:
      return body(TypeTag<BFloat16>());
    case DType::kF64:
      return body(TypeTag<double>());
    default:
      return body(TypeTag<float>());
  }
}

// f32 or f64: of weights kept in full, statistics and gradients.
template <class Body>
auto DispatchWide(DType dtype, Body&& body) {
  if (dtype == DType::kF64) return body(TypeTag<double>());
  return body(TypeTag<float>());
}

// Blocks that hold `work` pieces, `per_block` each.
constexpr unsigned BlocksFor(int64_t work, int64_t per_block) {
  return static_cast<unsigned>((work + per_block - 1) / per_block);
}

constexpr bool IsFloating(DType dtype) {
  return dtype == DType::kBf16 || dtype == DType::kF32 || dtype == DType::kF64;
}

}  // namespace plait::cuda
