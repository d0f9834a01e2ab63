#include "checkpoint/shard_overlap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "base/random.h"

namespace plait {
namespace {

using Range = ShardSpec::Range;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Draws of one stream of random numbers.
class Draws {
 public:
  explicit Draws(uint64_t seed) : key_(seed, RandomPurpose::kTest) {}
  // In [0, bound].
  int64_t UpTo(int64_t bound) {
    return static_cast<int64_t>(key_.Words(draw_++)[0] % static_cast<uint64_t>(bound + 1));
  }
  Range Part(int64_t size) {
    const int64_t begin = UpTo(size);
    return {begin, begin + UpTo(size - begin)};
  }

 private:
  RandomKey key_;
  uint64_t draw_ = 0;
};

// Boxes of every kind: whole, cut in any dim, segmented, empty; any range of their elements.
ShardSpec RandomSpec(const Shape& shape, Draws& draws) {
  ShardSpec spec = ShardSpec::Whole(shape);
  if (shape.rank() > 0 && draws.UpTo(2) > 0) {
    spec.dim0_ranges.clear();
    for (int64_t last = 0, segment = draws.UpTo(2); segment >= 0; --segment) {
      const Range part = draws.Part(shape[0] - last);
      spec.dim0_ranges.push_back({last + part.begin, last + part.end});
      last += part.end;
    }
  }
  for (int dim = 1; dim < shape.rank(); ++dim) {
    if (draws.UpTo(1) > 0) spec.other_ranges[dim - 1] = draws.Part(shape[dim]);
  }
  const int64_t elements = spec.box_shape().num_elements();
  spec.elements = draws.UpTo(2) > 0 ? draws.Part(elements) : Range{0, elements};
  return spec;
}

Shape RandomShape(Draws& draws) {
  std::array<int64_t, 4> sizes{};
  const auto rank = static_cast<size_t>(draws.UpTo(4));
  for (size_t dim = 0; dim < rank; ++dim) sizes[dim] = draws.UpTo(5);
  return Shape(std::span<const int64_t>(sizes.data(), rank));
}

// The logical index of each element of the shard, by walking over the whole tensor.
std::vector<int64_t> LogicalIndices(const ShardSpec& spec) {
  std::vector<int64_t> indices;
  int64_t in_box = 0;
  for (int64_t logical = 0; logical < spec.logical_shape.num_elements(); ++logical) {
    bool inside = true;
    int64_t rest = logical;
    for (int dim = spec.logical_shape.rank() - 1; dim >= 0; --dim) {
      const int64_t index = rest % spec.logical_shape[dim];
      rest /= spec.logical_shape[dim];
      const auto has = [&](const Range& range) {
        return range.begin <= index && index < range.end;
      };
      inside =
          inside && (dim > 0 ? has(spec.other_ranges[dim - 1])
                             : std::any_of(spec.dim0_ranges.begin(), spec.dim0_ranges.end(), has));
    }
    if (!inside) continue;
    if (spec.elements.begin <= in_box && in_box < spec.elements.end) indices.push_back(logical);
    ++in_box;
  }
  return indices;
}

TEST(ShardOverlapTest, RunsAreThoseOfAWalkOverTheTensor) {
  Draws draws(/*seed=*/1);
  for (int round = 0; round < 20000; ++round) {
    const ShardSpec spec = RandomSpec(RandomShape(draws), draws);
    ASSERT_TRUE(IsConsistent(spec));
    std::vector<ShardRun> expected;
    const std::vector<int64_t> indices = LogicalIndices(spec);
    for (size_t i = 0; i < indices.size(); ++i) {
      if (i > 0 && indices[i] == indices[i - 1] + 1) {
        ++expected.back().length;
      } else {
        expected.push_back({indices[i], static_cast<int64_t>(i), 1});
      }
    }
    ASSERT_EQ(RunsOf(spec), expected) << "round " << round;
  }
}

TEST(ShardOverlapTest, CopiesAreAllElementsThatBothHold) {
  Draws draws(/*seed=*/2);
  for (int round = 0; round < 20000; ++round) {
    const Shape shape = RandomShape(draws);
    const ShardSpec stored = RandomSpec(shape, draws);
    const ShardSpec wanted = RandomSpec(shape, draws);
    const std::vector<int64_t> source = LogicalIndices(stored);
    std::vector<int64_t> found(LogicalIndices(wanted).size(), -1);
    for (const ShardCopy& copy : OverlapOf(RunsOf(stored), RunsOf(wanted))) {
      ASSERT_GT(copy.length, 0);
      for (int64_t i = 0; i < copy.length; ++i) {
        int64_t& element = found.at(static_cast<size_t>(copy.destination + i));
        ASSERT_EQ(element, -1) << "copied twice";
        element = source.at(static_cast<size_t>(copy.source + i));
      }
    }
    std::vector<int64_t> expected = LogicalIndices(wanted);
    for (int64_t& element : expected) {
      if (!std::binary_search(source.begin(), source.end(), element)) element = -1;
    }
    ASSERT_EQ(found, expected) << "round " << round;
  }
}

TEST(ShardOverlapTest, AWholeTensorIsOneRun) {
  const ShardSpec whole = ShardSpec::Whole({1 << 20, 1 << 12});
  EXPECT_THAT(RunsOf(whole), ElementsAre(ShardRun{0, 0, int64_t{1} << 32}));
  ShardSpec part = whole;
  part.elements = {1000, 5000};
  EXPECT_THAT(OverlapOf(RunsOf(whole), RunsOf(part)), ElementsAre(ShardCopy{1000, 0, 4000}));
  EXPECT_THAT(OverlapOf(RunsOf(part), RunsOf(whole)), ElementsAre(ShardCopy{0, 1000, 4000}));
}

TEST(ShardOverlapTest, AnEmptyShardSharesNothing) {
  ShardSpec empty = ShardSpec::Whole({3, 4});
  empty.elements = {0, 0};
  EXPECT_THAT(RunsOf(empty), IsEmpty());
  EXPECT_THAT(OverlapOf(RunsOf(empty), RunsOf(ShardSpec::Whole({3, 4}))), IsEmpty());
}

TEST(ShardOverlapTest, TellsSpecsThatDescribeNoShard) {
  const auto with = [](auto change) {
    ShardSpec spec = ShardSpec::Whole({4, 6});
    change(spec);
    return IsConsistent(spec);
  };
  EXPECT_TRUE(with([](ShardSpec&) {}));
  EXPECT_FALSE(with([](ShardSpec& spec) { spec.elements = {0, 25}; }));
  EXPECT_FALSE(with([](ShardSpec& spec) { spec.elements = {3, 2}; }));
  EXPECT_FALSE(with([](ShardSpec& spec) { spec.elements = {-1, 2}; }));
  EXPECT_FALSE(with([](ShardSpec& spec) { spec.dim0_ranges = {{0, 5}}; }));
  EXPECT_FALSE(with([](ShardSpec& spec) { spec.dim0_ranges = {{2, 4}, {0, 2}}; }));
  EXPECT_FALSE(with([](ShardSpec& spec) { spec.dim0_ranges = {{0, 2}, {1, 3}}; }));
  EXPECT_FALSE(with([](ShardSpec& spec) { spec.other_ranges = {}; }));
  EXPECT_FALSE(with([](ShardSpec& spec) { spec.other_ranges = {{0, 7}}; }));
}

}  // namespace
}  // namespace plait
