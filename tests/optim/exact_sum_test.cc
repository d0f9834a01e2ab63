#include "optim/exact_sum.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/random.h"
#include "base/status_macros.h"
#include "kernels/exact_sum.h"
#include "parallel/local_communicator.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

ExactSum ExactSumOf(const std::vector<double>& values) {
  Execution execution({.num_threads = 2});
  const auto size = static_cast<int64_t>(values.size());
  std::vector<int64_t> words(static_cast<size_t>(NumExactSums(size) * kExactSumWords));
  EXPECT_OK(ExactSums(execution,
                      {.x = {values.data(), DType::kF64, size},
                       .words = {words.data(), DType::kI64, static_cast<int64_t>(words.size())}}));
  ExactSum sum;
  sum.Add(words);
  return sum;
}

double SumOf(const std::vector<double>& values) { return ExactSumOf(values).Total(); }

TEST(ExactSumTest, LosesNothing) {
  EXPECT_EQ(SumOf({}), 0.0);
  EXPECT_EQ(SumOf({1.5}), 1.5);
  EXPECT_EQ(SumOf({-0.375, 0.25}), -0.125);
  // Ordinary addition gives 0.
  EXPECT_EQ(SumOf({1.0, 1e300, -1e300}), 1.0);
  EXPECT_EQ(SumOf({1e-300, 1.0, -1.0}), 1e-300);
  const double least = std::numeric_limits<double>::denorm_min();
  EXPECT_EQ(SumOf({least, least, 4 * least}), 6 * least);
  const double largest = std::numeric_limits<double>::max();
  EXPECT_EQ(SumOf({largest, -largest / 2, -largest / 2}), 0.0);
  EXPECT_EQ(SumOf(std::vector<double>(100'000, 0x1.fffffffffffffp-3)),
            100'000 * 0x1.fffffffffffffp-3);
}

TEST(ExactSumTest, NumbersThatAreNotFiniteStay) {
  EXPECT_TRUE(std::isnan(SumOf({1, std::numeric_limits<double>::infinity()})));
  EXPECT_TRUE(std::isnan(SumOf({std::numeric_limits<double>::quiet_NaN(), 2})));
}

TEST(ExactSumTest, DoesNotDependOnWhoAddsWhat) {
  const RandomKey key(3, RandomPurpose::kTest, "exact sum");
  std::vector<double> values;
  for (uint64_t i = 0; i < 1000; ++i) {
    values.push_back(std::ldexp(key.Normal(i), static_cast<int>(key.Words(i)[2] % 200) - 100));
  }
  const double expected = SumOf(values);
  for (const int ranks : {1, 2, 3, 4}) {
    EXPECT_OK(RunLocalRanks(ranks, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
      std::vector<double> own;
      for (size_t i = values.size(); i-- > 0;) {
        if (static_cast<int>(i * i) % ranks == world->rank()) own.push_back(values[i]);
      }
      ExactSum sum = ExactSumOf(own);
      PLAIT_RETURN_IF_ERROR(sum.Reduce(*world));
      EXPECT_EQ(sum.Total(), expected);
      return absl::OkStatus();
    }));
  }
}

}  // namespace
}  // namespace plait
