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

}  // namespace
}  // namespace plait
