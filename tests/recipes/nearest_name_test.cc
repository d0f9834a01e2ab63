#include "recipes/nearest_name.h"

#include <gtest/gtest.h>

namespace plait {
namespace {

TEST(NearestNameTest, FindsTheNameThatWasMeant) {
  const std::vector<std::string> names = {"heads", "kv_heads", "head_dim"};
  EXPECT_EQ(NearestName("hedas", names), "heads");  // neighbours swapped
  EXPECT_EQ(NearestName("KV_HEAD", names), "kv_heads");
  EXPECT_EQ(NearestName("head_dimm", names), "head_dim");
  EXPECT_EQ(NearestName("heads", names), "heads");
}

TEST(NearestNameTest, SaysNothingWhereNoneIsNear) {
  EXPECT_EQ(NearestName("learning_rate", {"heads", "steps"}), std::nullopt);
  EXPECT_EQ(NearestName("a", {}), std::nullopt);
  EXPECT_EQ(NearestName(std::string(1'000'000, 'a'), {"heads"}), std::nullopt);
}

TEST(NearestNameTest, TakesTheFirstOfEquallyNearOnes) {
  EXPECT_EQ(NearestName("stepx", {"stepa", "stepb"}), "stepa");
}

}  // namespace
}  // namespace plait
