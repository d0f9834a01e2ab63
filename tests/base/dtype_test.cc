#include "base/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace plait {
namespace {

TEST(BFloat16Test, EveryValueSurvivesTheWayThroughFloat) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    BFloat16 value;
    value.bits = static_cast<uint16_t>(bits);
    const float wide = static_cast<float>(value);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(wide))));
    } else {
      EXPECT_EQ(BFloat16(wide).bits, value.bits);
    }
  }
}

TEST(BFloat16Test, RoundsToNearestAndTiesToEven) {
  // Steps of 2^-7 above 1.
  EXPECT_EQ(static_cast<float>(BFloat16(1.0f + 0x1.0p-8f)), 1.0f);              // tie, down to even
  EXPECT_EQ(static_cast<float>(BFloat16(1.0f + 0x1.8p-7f)), 1.0f + 0x1.0p-6f);  // tie, up to even
  EXPECT_EQ(static_cast<float>(BFloat16(1.0f + 0x1.02p-8f)), 1.0f + 0x1.0p-7f);  // above the tie
  EXPECT_EQ(static_cast<float>(BFloat16(-1.0f - 0x1.02p-8f)), -1.0f - 0x1.0p-7f);
}

TEST(BFloat16Test, TooLargeIsInfinite) {
  EXPECT_TRUE(std::isinf(static_cast<float>(BFloat16(std::numeric_limits<float>::max()))));
}

TEST(Float16Test, EveryValueSurvivesTheWayThroughFloat) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    Float16 value;
    value.bits = static_cast<uint16_t>(bits);
    const float wide = static_cast<float>(value);
    const int exponent = static_cast<int>((bits >> 10) & 0x1f);
    const auto fraction = static_cast<float>(bits & 0x3ff);
    if (exponent == 31 && fraction != 0) {
      EXPECT_TRUE(std::isnan(wide));
      EXPECT_TRUE(std::isnan(static_cast<float>(Float16(wide))));
      continue;
    }
    // IEEE 754: subnormals have no leading one.
    const float magnitude = exponent == 31  ? std::numeric_limits<float>::infinity()
                            : exponent == 0 ? std::ldexp(fraction, -24)
                                            : std::ldexp(1024.0f + fraction, exponent - 25);
    EXPECT_EQ(wide, (bits & 0x8000) != 0 ? -magnitude : magnitude) << bits;
    EXPECT_EQ(Float16(wide).bits, value.bits);
  }
}

TEST(Float16Test, RoundsToNearestAndTiesToEvenEverywhere) {
  // Between every two neighbours: just below, at and just above the tie.
  for (uint16_t bits = 0; bits < 0x7bff; ++bits) {
    Float16 low, high;
    low.bits = bits;
    high.bits = static_cast<uint16_t>(bits + 1);
    const float tie = (static_cast<float>(low) + static_cast<float>(high)) / 2;  // exact
    EXPECT_EQ(Float16(std::nextafter(tie, 0.0f)).bits, low.bits);
    EXPECT_EQ(Float16(std::nextafter(tie, 1e30f)).bits, high.bits);
    EXPECT_EQ(Float16(tie).bits, bits % 2 == 0 ? low.bits : high.bits);
    EXPECT_EQ(Float16(-tie).bits, 0x8000 | (bits % 2 == 0 ? low.bits : high.bits));
  }
}

TEST(Float16Test, TooLargeIsInfinite) {
  EXPECT_EQ(static_cast<float>(Float16(std::nextafter(65520.0f, 0.0f))), 65504.0f);
  for (const float value : {65520.0f, 65536.0f, 1e30f}) {
    EXPECT_TRUE(std::isinf(static_cast<float>(Float16(value)))) << value;
  }
}

}  // namespace
}  // namespace plait
