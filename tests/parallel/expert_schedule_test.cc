#include "parallel/expert_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "base/random.h"

namespace plait {
namespace {

// Rows from each rank's tokens of each slice for each expert; choose(rank, token, j): an expert.
using Choose = std::function<int64_t(int64_t, int64_t, int64_t)>;

std::vector<int32_t> Loads(const ExpertSizes& sizes, const Choose& choose) {
  const int64_t slices = ExpertSchedule::NumSlices(sizes);
  std::vector<int32_t> loads(static_cast<size_t>(sizes.ranks * slices * sizes.experts));
  for (int64_t rank = 0; rank < sizes.ranks; ++rank) {
    for (int64_t t = 0; t < sizes.tokens; ++t) {
      for (int64_t j = 0; j < sizes.experts_per_token; ++j) {
        const int64_t slice = rank * slices + t / ExpertSchedule::SliceTokens(sizes);
        ++loads[static_cast<size_t>(slice * sizes.experts + choose(rank, t, j))];
      }
    }
  }
  return loads;
}

// Choices of a token are distinct: neighbours of a random expert.
Choose Random(const ExpertSizes& sizes, uint64_t seed) {
  return [&sizes, key = RandomKey(seed, RandomPurpose::kTest, "loads")](int64_t rank, int64_t t,
                                                                        int64_t j) {
    const uint32_t first = key.Words(static_cast<uint64_t>(rank * sizes.tokens + t))[0];
    return (static_cast<int64_t>(first) + j) % sizes.experts;
  };
}

Choose FirstExperts() {
  return [](int64_t, int64_t, int64_t j) { return j; };
}

int64_t MostRows(const ExpertSchedule::Wave& wave, const ExpertSizes& sizes) {
  std::vector<int64_t> rows(static_cast<size_t>(sizes.ranks));
  for (size_t i = 0; i < wave.rows.size(); ++i) {
    const int64_t expert = static_cast<int64_t>(i) % sizes.experts;
    rows[static_cast<size_t>(expert / (sizes.experts / sizes.ranks))] += wave.rows[i];
  }
  return *std::ranges::max_element(rows);
}

TEST(ExpertScheduleTest, ABalancedLoadRunsInAFewWavesOfLikeSize) {
  const ExpertSizes sizes{.tokens = 8192, .ranks = 8, .experts = 16, .experts_per_token = 2};
  const ExpertSchedule schedule(sizes, Loads(sizes, Random(sizes, 1)));
  EXPECT_GE(schedule.waves().size(), 3u);
  EXPECT_LE(schedule.waves().size(), 4u);
  EXPECT_EQ(schedule.num_recomputed(), 0);
  EXPECT_LT(schedule.largest_over_mean(), 1.05);
  for (const ExpertSchedule::Wave& wave : schedule.waves()) {
    EXPECT_GT(MostRows(wave, sizes), 8192 * 2 / 6);
  }
}

TEST(ExpertScheduleTest, FewTokensAreNotCutIntoSmallProducts) {
  const ExpertSizes sizes{.tokens = 512, .ranks = 4, .experts = 16, .experts_per_token = 2};
  const auto round_robin = [](int64_t, int64_t t, int64_t j) { return (2 * t + j) % 16; };
  EXPECT_EQ(ExpertSchedule(sizes, Loads(sizes, round_robin)).waves().size(), 1u);
}

TEST(ExpertScheduleTest, WavesCoverEveryTokenOnceWithinTheirRowsWhateverTheRouting) {
  for (const int64_t wave_tokens : {0, 1, 3, 7, 64, 1000}) {
    for (const int64_t ranks : {2, 3, 4}) {
      const ExpertSizes sizes{.tokens = 250,
                              .ranks = ranks,
                              .experts = 12,
                              .experts_per_token = 3,
                              .wave_tokens = wave_tokens};
      for (const Choose& choose : {Random(sizes, 2), FirstExperts()}) {
        const ExpertSchedule schedule(sizes, Loads(sizes, choose));
        int64_t end = 0, rows = 0;
        for (const ExpertSchedule::Wave& wave : schedule.waves()) {
          EXPECT_EQ(wave.begin, end);
          EXPECT_GT(wave.end, wave.begin);
          EXPECT_LE(MostRows(wave, sizes), ExpertSchedule::MostWaveRows(sizes));
          end = wave.end;
          rows = std::accumulate(wave.rows.begin(), wave.rows.end(), rows);
        }
        EXPECT_EQ(end, 250);
        EXPECT_EQ(rows, ranks * 250 * 3);
      }
    }
  }
}

// 8 ranks, all tokens to two experts of one rank: 8 times the balanced load, kept up to twice it.
TEST(ExpertScheduleTest, OverloadMakesMoreWavesAndWhatIsBeyondTheBudgetIsNotKept) {
  const ExpertSizes sizes{.tokens = 4096, .ranks = 8, .experts = 16, .experts_per_token = 2};
  const ExpertSchedule schedule(sizes, Loads(sizes, FirstExperts()));
  EXPECT_DOUBLE_EQ(schedule.largest_over_mean(), 8);
  EXPECT_GE(schedule.waves().size(), 24u);
  int64_t kept = 0;
  for (const ExpertSchedule::Wave& wave : schedule.waves()) {
    if (wave.kept) kept += MostRows(wave, sizes);
  }
  EXPECT_LE(kept, ExpertSchedule::MostKeptRows(sizes));
  EXPECT_GT(kept, ExpertSchedule::MostKeptRows(sizes) * 7 / 10);
  EXPECT_EQ(ExpertSchedule::MostKeptRows(sizes), 2 * 4096 * 2);
  EXPECT_GT(schedule.num_recomputed(), 0);
}

// Twice the balanced load is the most that two ranks can get.
TEST(ExpertScheduleTest, TwoRanksNeverRecompute) {
  const ExpertSizes sizes{.tokens = 64, .ranks = 2, .experts = 4, .experts_per_token = 2};
  EXPECT_EQ(ExpertSchedule(sizes, Loads(sizes, FirstExperts())).num_recomputed(), 0);
}

TEST(ExpertScheduleTest, MemoryGrowsWithTokensNotWithRanks) {
  const auto most = [](int64_t tokens, int64_t ranks, int64_t wave_tokens) {
    return MostExpertMemory({.tokens = tokens,
                             .ranks = ranks,
                             .experts = 64,
                             .experts_per_token = 2,
                             .wave_tokens = wave_tokens},
                            512, 1024, DType::kBf16);
  };
  EXPECT_EQ(most(4096, 4, 1024).working_bytes, most(4096, 32, 1024).working_bytes);
  EXPECT_EQ(most(4096, 4, 1024).kept_bytes, most(4096, 32, 1024).kept_bytes);
  EXPECT_EQ(most(4096, 4, 1024).working_bytes, most(8192, 4, 1024).working_bytes);
  // (P + 2 h) elements of 2 bytes for twice the balanced rows, and what the allocator rounds up.
  EXPECT_NEAR(static_cast<double>(most(4096, 4, 1024).kept_bytes),
              1.125 * 2 * 4096 * 2 * (512 + 2 + 2 * 1024) * 2, 4096);
  EXPECT_EQ(most(4096, 1, 0).kept_bytes + most(4096, 1, 0).working_bytes, 0);
}

}  // namespace
}  // namespace plait
