#include "base/crc32c.h"

#include <gtest/gtest.h>

#include <string>

namespace plait {
namespace {

// RFC 3720, section B.4, and the check value of the catalogue of CRC algorithms (CRC-32/ISCSI).
TEST(Crc32cTest, GivesThePublishedValues) {
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(Crc32c(""), 0u);
}

}  // namespace
}  // namespace plait
