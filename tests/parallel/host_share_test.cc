#include "parallel/host_share.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/status_macros.h"
#include "parallel/local_communicator.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

TEST(HostShareTest, RanksThatMayUseTheSameCoresDivideThem) {
  const auto alone = MakeSingleRankCommunicator();
  ASSERT_OK_AND_ASSIGN(const HostShare all, ShareOfHost(*alone));
  EXPECT_EQ(all.fair_threads, static_cast<int>(all.fair_cores + 0.5));
  EXPECT_OK(RunLocalRanks(3, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(const HostShare share, ShareOfHost(*world));
    EXPECT_EQ(share.hosts, 1);
    EXPECT_EQ(share.ranks_on_host, 3);
    EXPECT_EQ(share.rank_on_host, world->rank());
    EXPECT_NEAR(share.fair_cores, all.fair_cores / 3, 1e-12 * all.fair_cores);
    EXPECT_EQ(share.fair_threads, std::max(1, all.fair_threads / 3));
    return absl::OkStatus();
  }));
}

}  // namespace
}  // namespace plait
