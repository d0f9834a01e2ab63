#include "parallel/shard_spec.h"

#include <gtest/gtest.h>

namespace plait {
namespace {

TEST(ShardSpecTest, WholeCoversTheTensor) {
  const ShardSpec spec = ShardSpec::Whole({6, 4, 2});
  EXPECT_TRUE(spec.is_whole());
  EXPECT_EQ(spec.box_shape(), Shape({6, 4, 2}));
  EXPECT_EQ(spec.elements, (ShardSpec::Range{0, 48}));
}

TEST(ShardSpecTest, WholeOfAScalarHasOneElement) {
  const ShardSpec spec = ShardSpec::Whole({});
  EXPECT_TRUE(spec.is_whole());
  EXPECT_EQ(spec.elements.end, 1);
}

TEST(ShardSpecTest, SegmentedBoxAddsItsRanges) {
  ShardSpec spec = ShardSpec::Whole({8, 4});
  spec.dim0_ranges = {{0, 2}, {4, 6}};  // the first half of x and of z
  EXPECT_EQ(spec.box_shape(), Shape({4, 4}));
  EXPECT_FALSE(spec.is_whole());
}

TEST(ShardSpecTest, PartOfTheElementsIsNotWhole) {
  ShardSpec spec = ShardSpec::Whole({8, 4});
  spec.elements = {0, 16};
  EXPECT_FALSE(spec.is_whole());
}

}  // namespace
}  // namespace plait
