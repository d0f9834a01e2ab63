// Element types. bfloat16 is the upper half of an IEEE float: 8 exponent and 7 fraction bits. f16
// is IEEE half: 5 and 10; tensors are stored in it, nothing computes in it (see
// float_conversion.h). This header is plain C++ so that device code can include it.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace plait {

struct BFloat16 {
  uint16_t bits = 0;

  BFloat16() = default;
  // Rounds to nearest, ties to even; NaN stays NaN.
  explicit constexpr BFloat16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = static_cast<uint16_t>((u >> 16) | 0x40u);
    } else {
      bits = static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
  }
  explicit constexpr BFloat16(double value) : BFloat16(static_cast<float>(value)) {}
  explicit constexpr operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
  explicit constexpr operator double() const {
    return static_cast<double>(static_cast<float>(*this));
  }
};

struct Float16 {
  uint16_t bits = 0;

  Float16() = default;
  // Rounds to nearest, ties to even; 65520 and above is infinite; NaN stays NaN.
  explicit constexpr Float16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const uint32_t magnitude = u & 0x7fffffffu;
    uint32_t half = 0;
    if (magnitude > 0x7f800000u) {
      half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
    } else if (magnitude >= 0x47800000u) {  // 2^16
      half = 0x7c00u;
    } else if (magnitude < 0x38800000u) {  // 2^-14: subnormal; adding 1/2 rounds at 2^-24
      half = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    } else {  // the exponent's bias falls from 127 to 15; a carry out of the fraction is right
      half = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    }
    bits = static_cast<uint16_t>(half | ((u >> 16) & 0x8000u));
  }
  // Exact.
  explicit constexpr operator float() const {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    const uint32_t exponent_and_fraction = static_cast<uint32_t>(bits & 0x7fffu) << 13;
    uint32_t magnitude = exponent_and_fraction + (112u << 23);
    if (exponent_and_fraction >= 0x0f800000u) {  // infinity and NaN
      magnitude += 112u << 23;
    } else if (exponent_and_fraction < 0x00800000u) {  // zero and subnormals
      magnitude = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude + (1u << 23)) - 0x1p-14f);
    }
    return std::bit_cast<float>(sign | magnitude);
  }
  explicit constexpr operator double() const {
    return static_cast<double>(static_cast<float>(*this));
  }
};

enum class DType : uint8_t { kBf16, kF16, kF32, kF64, kI32, kI64 };

constexpr size_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
    case DType::kF16:
      return 2;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF64:
    case DType::kI64:
      return 8;
  }
  return 0;
}

constexpr const char* Name(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kF32:
      return "f32";
    case DType::kF64:
      return "f64";
    case DType::kI32:
      return "i32";
    case DType::kI64:
      return "i64";
  }
  return "?";
}

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::kBf16;
};
template <>
struct DTypeOf<Float16> {
  static constexpr DType value = DType::kF16;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kI64;
};

// The type in which statistics and per-token numbers travel beside activations of `dtype`: f64
// beside f64, else f32.
constexpr DType StatisticsDType(DType dtype) {
  return dtype == DType::kF64 ? DType::kF64 : DType::kF32;
}

}  // namespace plait
