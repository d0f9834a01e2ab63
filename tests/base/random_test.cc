#include "base/random.h"

#include <gtest/gtest.h>

#include <cmath>

namespace plait {
namespace {

TEST(RandomKeyTest, ValuesDependOnEveryPartOfTheKey) {
  const RandomKey base(1, RandomPurpose::kTest, "a", 2);
  EXPECT_EQ(base.Words(7), RandomKey(1, RandomPurpose::kTest, "a", 2).Words(7));
  EXPECT_NE(base.Words(7), base.Words(8));
  EXPECT_NE(base.Words(7), base.Words(7 + (uint64_t{1} << 32)));
  EXPECT_NE(base.Words(7), RandomKey(2, RandomPurpose::kTest, "a", 2).Words(7));
  EXPECT_NE(base.Words(7), RandomKey(1, RandomPurpose::kGeneration, "a", 2).Words(7));
  EXPECT_NE(base.Words(7), RandomKey(1, RandomPurpose::kTest, "b", 2).Words(7));
  EXPECT_NE(base.Words(7), RandomKey(1, RandomPurpose::kTest, "a", 3).Words(7));
}

// A change of these bits would change every run that exists.
TEST(RandomKeyTest, BitsAreFixed) {
  const RandomKey key(1, RandomPurpose::kInitialization, "model.embed_tokens.weight");
  EXPECT_EQ(key.Words(0)[0], 1180495846u);
}

TEST(RandomKeyTest, MomentsAreThoseOfTheDistributions) {
  const RandomKey key(3, RandomPurpose::kTest);
  const int draws = 100000;
  double uniform = 0, normal = 0, square = 0;
  for (int i = 0; i < draws; ++i) {
    const double u = key.Uniform(i), n = key.Normal(i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    uniform += u;
    normal += n;
    square += n * n;
  }
  // Five standard deviations of a mean over the draws.
  EXPECT_NEAR(uniform / draws, 0.5, 5 * std::sqrt(1.0 / 12 / draws));
  EXPECT_NEAR(normal / draws, 0.0, 5 / std::sqrt(draws));
  EXPECT_NEAR(square / draws, 1.0, 5 * std::sqrt(2.0 / draws));
}

}  // namespace
}  // namespace plait
