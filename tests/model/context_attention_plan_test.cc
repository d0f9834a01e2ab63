#include "model/context_attention_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace plait {
namespace {

using ::testing::ElementsAre;

std::vector<int32_t> Offsets(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> offsets = {0};
  for (const int32_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

int64_t Start(const std::vector<int32_t>& offsets, int64_t token) {
  return *(std::upper_bound(offsets.begin(), offsets.end(), token) - 1);
}

// Different kinds of 48 tokens: one document, documents that cross one cut, several, or none.
const std::vector<std::vector<int32_t>>& Microbatches() {
  static const std::vector<std::vector<int32_t>> all = {
      {48}, {24, 24}, {5, 31, 12}, {16, 8, 8, 16}, {1, 1, 30, 1, 1, 14}, {12, 36}};
  return all;
}

TEST(ContextAttentionPlanTest, OneLongDocumentIsBalanced) {
  for (const int ranks : {2, 3, 4, 8, 64}) {
    const int32_t tokens = 64 * 3 * 1024;
    const std::vector<int32_t> offsets = {0, tokens};
    const ContextAttentionPlan plan(offsets, ranks);
    const double pairs = 0.5 * tokens * (tokens + 1.0), mean = pairs / ranks;
    EXPECT_TRUE(plan.swaps_halves());
    EXPECT_GT(static_cast<double>(plan.LargestWork(false)), 1.3 * mean) << ranks;
    EXPECT_LE(static_cast<double>(plan.LargestWork(true)), 1.05 * mean) << ranks;
  }
}

TEST(ContextAttentionPlanTest, EqualShortDocumentsStayWhereTheyAre) {
  const ContextAttentionPlan plan(Offsets({8, 8, 8, 8, 8, 8}), 3);
  EXPECT_FALSE(plan.swaps_halves());
  const std::vector<QueryRange> ranges = plan.Ranges(1);
  ASSERT_EQ(ranges.size(), 1);
  EXPECT_THAT(ranges[0].query_offsets, ElementsAre(0, 8, 16));
  EXPECT_THAT(ranges[0].key_offsets, ElementsAre(0, 8, 16));
  EXPECT_EQ(ranges[0].key_begin, 16);
}

TEST(ContextAttentionPlanTest, EveryQueryIsComputedOnceWithItsDocumentsKeys) {
  for (const std::vector<int32_t>& lengths : Microbatches()) {
    const std::vector<int32_t> offsets = Offsets(lengths);
    for (const int ranks : {1, 2, 3, 4, 6}) {
      SCOPED_TRACE(testing::Message() << lengths.size() << " documents " << ranks << " ranks");
      const ContextAttentionPlan plan(offsets, ranks);
      std::vector<int> computed(48, 0);
      int64_t work = 0, largest = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        int64_t queries = 0, own_work = 0;
        for (const QueryRange& range : plan.Ranges(rank)) {
          queries += range.end - range.begin;
          own_work += range.pairs();
          for (int64_t s = 0; s < range.documents(); ++s) {
            const int64_t keys_from = range.key_begin + range.key_offsets[s];
            const int64_t keys_to = range.key_begin + range.key_offsets[s + 1];
            const int64_t from = range.begin + range.query_offsets[s];
            const int64_t to = range.begin + range.query_offsets[s + 1];
            EXPECT_LT(from, to);
            EXPECT_EQ(keys_to, to);
            for (int64_t query = from; query < to; ++query) {
              ++computed[query];
              EXPECT_EQ(Start(offsets, query), keys_from) << query;
            }
          }
        }
        EXPECT_EQ(queries, 48 / ranks);
        work += own_work;
        largest = std::max(largest, own_work);
      }
      EXPECT_THAT(computed, testing::Each(1));
      EXPECT_EQ(largest, std::min(plan.LargestWork(false), plan.LargestWork(true)));
      int64_t expected = 0;
      for (const int64_t length : lengths) expected += length * (length + 1) / 2;
      EXPECT_EQ(work, expected);
    }
  }
}

TEST(ContextAttentionPlanTest, SharedKeysAreThoseThatLaterSegmentsSee) {
  for (const std::vector<int32_t>& lengths : Microbatches()) {
    const std::vector<int32_t> offsets = Offsets(lengths);
    for (const int ranks : {1, 2, 3, 4, 6}) {
      SCOPED_TRACE(testing::Message() << lengths.size() << " documents " << ranks << " ranks");
      const ContextAttentionPlan plan(offsets, ranks);
      const int64_t segment = 48 / ranks;
      for (int rank = 0; rank < ranks; ++rank) {
        const int64_t end = (rank + 1) * segment;
        // Pair by pair.
        int64_t first_shared = end, last_rank = rank, open = 0;
        for (int64_t query = end; query < 48; ++query) {
          for (int64_t key = rank * segment; key < end; ++key) {
            if (Start(offsets, key) != Start(offsets, query)) continue;
            first_shared = std::min(first_shared, key);
            last_rank = query / segment;
          }
        }
        for (int64_t query = rank * segment; query < end; ++query)
          open += Start(offsets, query) < rank * segment;
        EXPECT_EQ(plan.Shared(rank).begin, first_shared);
        EXPECT_EQ(plan.Shared(rank).visits, last_rank - rank);
        EXPECT_EQ(plan.OpenQueries(rank), open);
        EXPECT_EQ(plan.Own(rank).query_offsets, plan.Own(rank).key_offsets);
        EXPECT_EQ(plan.Own(rank).query_offsets.back(), segment);
      }
    }
  }
}

}  // namespace
}  // namespace plait
