// Comparing tensors: element-wise bounds and exact equality of bits.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "base/tensor.h"

namespace plait {

// |found - expected| <= absolute + relative * max |expected|, element by element, compared in
// double.
inline void ExpectClose(const std::string& name, const Tensor& found, const Tensor& expected,
                        double relative, double absolute = 0) {
  ASSERT_EQ(found.num_elements(), expected.num_elements()) << name;
  const Tensor a = found.Converted(DType::kF64), b = expected.Converted(DType::kF64);
  double largest = 0;
  for (double value : b.values<double>()) largest = std::max(largest, std::abs(value));
  int failures = 0;
  for (int64_t i = 0; i < a.num_elements() && failures < 5; ++i) {
    const double x = a.data<double>()[i], y = b.data<double>()[i];
    if (!(std::abs(x - y) <= absolute + relative * largest)) {
      ++failures;
      ADD_FAILURE() << name << " element " << i << ": " << x << " against " << y << ", bound "
                    << absolute + relative * largest;
    }
  }
}

// ||found - expected|| <= relative ||expected||, Euclidean norms in double.
inline void ExpectNormClose(const std::string& name, const Tensor& found, const Tensor& expected,
                            double relative) {
  ASSERT_EQ(found.num_elements(), expected.num_elements()) << name;
  const Tensor a = found.Converted(DType::kF64), b = expected.Converted(DType::kF64);
  double difference = 0, size = 0;
  for (int64_t i = 0; i < a.num_elements(); ++i) {
    const double x = a.data<double>()[i], y = b.data<double>()[i];
    difference += (x - y) * (x - y);
    size += y * y;
  }
  EXPECT_LE(std::sqrt(difference), relative * std::sqrt(size)) << name;
}

inline void ExpectSameBits(const std::string& name, const Tensor& found, const Tensor& expected) {
  ASSERT_EQ(found.bytes(), expected.bytes()) << name;
  EXPECT_EQ(std::memcmp(found.raw(), expected.raw(), found.bytes()), 0) << name << ": bits differ";
}

// Half a unit in the last place of a value of magnitude 1: what one rounding may change, relative.
constexpr double RoundingError(DType dtype) {
  return dtype == DType::kBf16 ? 0x1.0p-9 : dtype == DType::kF32 ? 0x1.0p-24 : 0x1.0p-53;
}

}  // namespace plait
