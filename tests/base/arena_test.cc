#include "base/arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/random.h"

namespace plait {
namespace {

TEST(ArenaTest, TakesTheSmallestRangeThatIsLargeEnough) {
  Arena arena(1000);
  EXPECT_EQ(arena.Take(100), 0u);
  EXPECT_EQ(arena.Take(50), 100u);
  EXPECT_EQ(arena.Take(60), 150u);
  EXPECT_EQ(arena.Take(40), 210u);
  arena.Give(0, 100);
  arena.Give(150, 60);
  EXPECT_EQ(arena.Take(55), 150u);
  EXPECT_EQ(arena.Take(70), 0u);
  EXPECT_EQ(arena.Take(20), 70u);
  EXPECT_EQ(arena.high_water(), 250u);
}

TEST(ArenaTest, NeighboursThatAreFreeAreOne) {
  Arena arena(300);
  for (const size_t begin : {0u, 100u, 200u}) EXPECT_EQ(arena.Take(100), begin);
  EXPECT_EQ(arena.Take(1), std::nullopt);
  arena.Give(0, 100);
  arena.Give(200, 100);
  EXPECT_EQ(arena.Take(150), std::nullopt);
  arena.Give(100, 100);  // joins both
  EXPECT_EQ(arena.Take(300), 0u);
  EXPECT_EQ(arena.high_water(), 300u);
}

TEST(ArenaTest, TheHighWaterMarkIsTheHighestEnd) {
  Arena arena(1000);
  EXPECT_EQ(arena.high_water(), 0u);
  EXPECT_EQ(arena.Take(400), 0u);
  arena.Give(0, 400);
  EXPECT_EQ(arena.Take(300), 0u);
  EXPECT_EQ(arena.high_water(), 400u);
}

// Beside a list of all bytes.
TEST(ArenaTest, NoTwoRangesMeet) {
  constexpr size_t kBytes = 2000;
  const RandomKey key(3, RandomPurpose::kTest, "arena");
  Arena arena(kBytes);
  std::vector<bool> taken(kBytes);
  std::vector<std::pair<size_t, size_t>> ranges;  // begin, bytes
  size_t highest = 0;
  for (uint64_t i = 0; i < 20000; ++i) {
    const auto words = key.Words(i);
    if (words[0] % 2 == 0) {
      const size_t bytes = 1 + words[1] % 200;
      const auto begin = arena.Take(bytes);
      size_t longest = 0, run = 0;
      for (const bool is_taken : taken) longest = std::max(longest, run = is_taken ? 0 : run + 1);
      ASSERT_EQ(begin.has_value(), longest >= bytes);
      if (!begin) continue;
      for (size_t at = *begin; at < *begin + bytes; ++at) {
        ASSERT_FALSE(taken[at]);
        taken[at] = true;
      }
      highest = std::max(highest, *begin + bytes);
      ranges.emplace_back(*begin, bytes);
    } else if (!ranges.empty()) {
      const size_t which = words[2] % ranges.size();
      const auto [begin, bytes] = ranges[which];
      ranges.erase(ranges.begin() + static_cast<std::ptrdiff_t>(which));
      std::fill_n(taken.begin() + static_cast<std::ptrdiff_t>(begin), bytes, false);
      arena.Give(begin, bytes);
    }
    ASSERT_EQ(arena.high_water(), highest);
  }
}

}  // namespace
}  // namespace plait
