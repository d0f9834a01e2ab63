#include "trainer/rank_benchmark.h"

#include <gtest/gtest.h>

#include "base/status_macros.h"
#include "parallel/local_communicator.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_run.h"

namespace plait {
namespace {

// The names of what was timed, in turns, on two ranks.
void ExpectWays(const std::string& layout, const std::vector<std::string>& expected) {
  const recipe::v1::Recipe recipe =
      TinyRecipe("unused", {"stages.0.tokens_per_step=128", layout}, /*world_size=*/2);
  EXPECT_OK(RunLocalRanks(2, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(const RankBenchmarkResult result,
                           BenchmarkRanks(recipe, world, {.warmup_rounds = 0, .rounds = 1}));
    std::vector<std::string> names;
    for (const auto& way : result.ways) names.push_back(way.name);
    EXPECT_EQ(names, expected) << layout;
    return absl::OkStatus();
  })) << layout;
}

TEST(RankBenchmarkTest, TimesEveryWayToExchange) {
  ExpectWays("parallel.context=2", {"alone", "shared", "messages", "canonical"});
}

TEST(RankBenchmarkTest, LeavesOutTheCanonicalReductionWhereExpertsAreDealt) {
  ExpectWays("parallel.expert=2", {"alone", "shared", "messages"});
}

}  // namespace
}  // namespace plait
