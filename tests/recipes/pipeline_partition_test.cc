#include "recipes/pipeline_partition.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

#include "recipes/recipe_loader.h"
#include "recipes/schema/recipe.pb.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

int64_t Largest(const std::vector<int64_t>& weights, int64_t head,
                const std::vector<BlockRange>& ranges) {
  int64_t largest = 0;
  for (size_t i = 0; i < ranges.size(); ++i) {
    largest = std::max(
        largest, std::accumulate(weights.begin() + ranges[i].begin, weights.begin() + ranges[i].end,
                                 i + 1 == ranges.size() ? head : int64_t{0}));
  }
  return largest;
}

// Over every cut into ranges of at least one block.
int64_t SmallestLargest(const std::vector<int64_t>& weights, int64_t head, int64_t begin,
                        int64_t parts) {
  const auto size = static_cast<int64_t>(weights.size());
  if (parts == 1) return std::accumulate(weights.begin() + begin, weights.end(), head);
  int64_t smallest = std::numeric_limits<int64_t>::max(), weight = 0;
  for (int64_t end = begin + 1; size - end >= parts - 1; ++end) {
    weight += weights[end - 1];
    smallest = std::min(smallest, std::max(weight, SmallestLargest(weights, head, end, parts - 1)));
  }
  return smallest;
}

TEST(PipelinePartitionTest, EqualBlocksAreDealtEvenlyTheLastPartsGettingMore) {
  const std::vector<int64_t> weights(8, 5);
  EXPECT_THAT(BalancedBlockRanges(weights, 0, 1), ElementsAre(BlockRange{0, 8}));
  EXPECT_THAT(BalancedBlockRanges(weights, 0, 4),
              ElementsAre(BlockRange{0, 2}, BlockRange{2, 4}, BlockRange{4, 6}, BlockRange{6, 8}));
  EXPECT_THAT(BalancedBlockRanges(weights, 0, 3),
              ElementsAre(BlockRange{0, 2}, BlockRange{2, 5}, BlockRange{5, 8}));
}

TEST(PipelinePartitionTest, TheHeadWeighsOnTheLastPart) {
  const std::vector<int64_t> weights(8, 5);
  EXPECT_THAT(BalancedBlockRanges(weights, 10, 2), ElementsAre(BlockRange{0, 5}, BlockRange{5, 8}));
  EXPECT_THAT(BalancedBlockRanges(weights, 100, 2),
              ElementsAre(BlockRange{0, 7}, BlockRange{7, 8}));
}

TEST(PipelinePartitionTest, EveryPartHasABlock) {
  const std::vector<int64_t> weights = {1, 0, 0, 90};
  EXPECT_THAT(BalancedBlockRanges(weights, 0, 4),
              ElementsAre(BlockRange{0, 1}, BlockRange{1, 2}, BlockRange{2, 3}, BlockRange{3, 4}));
  EXPECT_THAT(BalancedBlockRanges(std::vector<int64_t>(3, 0), 0, 3),
              ElementsAre(BlockRange{0, 1}, BlockRange{1, 2}, BlockRange{2, 3}));
}

TEST(PipelinePartitionTest, NoCutHasASmallerLargestPart) {
  std::mt19937 random(7);
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<int64_t> weights(1 + random() % 9);
    for (int64_t& weight : weights) weight = static_cast<int64_t>(random() % 20);
    const auto head = static_cast<int64_t>(random() % 30);
    for (int64_t parts = 1; parts <= static_cast<int64_t>(weights.size()); ++parts) {
      const std::vector<BlockRange> ranges = BalancedBlockRanges(weights, head, parts);
      ASSERT_EQ(static_cast<int64_t>(ranges.size()), parts);
      EXPECT_EQ(ranges.back().end, static_cast<int64_t>(weights.size()));
      for (int64_t i = 0; i < parts; ++i) {
        EXPECT_GE(ranges[i].size(), 1);
        EXPECT_EQ(ranges[i].begin, i > 0 ? ranges[i - 1].end : 0);
      }
      EXPECT_EQ(Largest(weights, head, ranges), SmallestLargest(weights, head, 0, parts));
    }
  }
}

recipe::v1::Model Hybrid() {
  const auto recipe = ParseRecipe(R"(
    schema_version: 1
    model { family: JAMBA vocabulary: 256 model_dim: 64 hidden_dim: 96 layers: 2
            pattern: "MdAe" attention { heads: 4 } experts { experts: 8 } })",
                                  "test");
  EXPECT_OK(recipe);
  return recipe->model();
}

// Matrix elements a token meets: Mamba 2 x 128 x 64 + 36 x 128 + 128 x 4 + 64 x 128 = 29,696; dense
// 3 x 96 x 64 = 18,432; attention 4 x 64 x 64 = 16,384; experts 8 x 64 + 2 x 18,432 = 37,376; the
// head 256 x 64 = 16,384. The best cut in two is 64,512 and 53,760.
TEST(PipelinePartitionTest, BlocksWeighWhatATokenIsMultipliedBy) {
  ASSERT_OK_AND_ASSIGN(const auto two, PipelinePartition(Hybrid(), 2));
  EXPECT_THAT(two, ElementsAre(BlockRange{0, 3}, BlockRange{3, 4}));
  ASSERT_OK_AND_ASSIGN(const auto three, PipelinePartition(Hybrid(), 3));
  EXPECT_THAT(three, ElementsAre(BlockRange{0, 1}, BlockRange{1, 3}, BlockRange{3, 4}));
}

TEST(PipelinePartitionTest, MorePartsThanBlocksAreRefused) {
  EXPECT_THAT(PipelinePartition(Hybrid(), 5),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("expected 1 to 4 parts, one block each or more, got 5")));
  EXPECT_THAT(PipelinePartition(Hybrid(), 0),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("got 0")));
}

}  // namespace
}  // namespace plait
