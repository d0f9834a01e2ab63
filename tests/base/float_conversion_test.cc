#include "base/float_conversion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/tensor.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(FloatConversionTest, WideningAndBackGivesTheSameBits) {
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    const int64_t values = 1 << 16;
    Tensor narrow = Tensor::OnHost(dtype, {values});
    for (int64_t i = 0; i < values; ++i) {
      static_cast<uint16_t*>(narrow.raw())[i] = static_cast<uint16_t>(i);
    }
    Tensor wide = Tensor::OnHost(DType::kF32, {values});
    ASSERT_OK(ConvertFloats("t", 0, narrow.vector(), wide.vector()));
    Tensor back = Tensor::OnHost(dtype, {values});
    ASSERT_OK(ConvertFloats("t", 0, wide.vector(), back.vector()));
    for (int64_t i = 0; i < values; ++i) {
      if (std::isnan(wide.data<float>()[i])) continue;
      ASSERT_EQ(static_cast<uint16_t*>(back.raw())[i], i) << Name(dtype);
    }
  }
}

TEST(FloatConversionTest, InfinityAndNanStay) {
  const Tensor wide = Tensor::FromValues<float>({3}, {kInfinity, -kInfinity, std::nanf("")});
  Tensor narrow = Tensor::OnHost(DType::kF16, {3});
  ASSERT_OK(ConvertFloats("t", 0, wide.vector(), narrow.vector()));
  EXPECT_EQ(static_cast<float>(narrow.data<Float16>()[0]), kInfinity);
  EXPECT_EQ(static_cast<float>(narrow.data<Float16>()[1]), -kInfinity);
  EXPECT_TRUE(std::isnan(static_cast<float>(narrow.data<Float16>()[2])));
}

TEST(FloatConversionTest, RefusesToMakeInfinityOfAFiniteNumber) {
  const Tensor wide = Tensor::FromValues<float>({4}, {1, kInfinity, -70000, 1e6});
  Tensor half = Tensor::OnHost(DType::kF16, {4});
  EXPECT_THAT(
      ConvertFloats("model.norm.weight", 100, wide.vector(), half.vector()),
      StatusIs(absl::StatusCode::kOutOfRange,
               HasSubstr("model.norm.weight: element 102: -70000 is outside the range of f16")));
  const Tensor largest = Tensor::FromValues<float>({1}, {std::numeric_limits<float>::max()});
  Tensor brain = Tensor::OnHost(DType::kBf16, {1});
  EXPECT_THAT(ConvertFloats("t", 0, largest.vector(), brain.vector()),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("t: element 0: 3.40282347e+38")));
  const Tensor large_brain = Tensor::FromValues<BFloat16>({1}, {BFloat16(1e10f)});
  Tensor one_half = Tensor::OnHost(DType::kF16, {1});
  EXPECT_THAT(ConvertFloats("t", 0, large_brain.vector(), one_half.vector()),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("outside the range of f16")));
}

TEST(FloatConversionTest, RefusesOtherDtypes) {
  const Tensor from = Tensor::OnHost(DType::kF64, {1});
  Tensor to = Tensor::OnHost(DType::kF32, {1});
  EXPECT_THAT(ConvertFloats("t", 0, from.vector(), to.vector()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("t: expected bf16, f16 or f32, got f64")));
}

}  // namespace
}  // namespace plait
