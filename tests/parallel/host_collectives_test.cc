#include "parallel/host_collectives.h"

#include "base/status_macros.h"
#include "parallel/local_communicator.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::ElementsAre;

TEST(HostCollectivesTest, BytesOfAnyLengthsAreGathered) {
  for (const size_t longest : {0, 7, 8, 9, 5000}) {
    EXPECT_OK(RunLocalRanks(3, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
      const std::string first(longest, '\xff'), last(longest / 2, '\0');
      const std::string own = world->rank() == 0 ? first : world->rank() == 1 ? "" : last;
      PLAIT_ASSIGN_OR_RETURN(const std::vector<std::string> all, GatherBytesOnHost(*world, own));
      EXPECT_THAT(all, ElementsAre(first, "", last));
      return absl::OkStatus();
    }));
  }
}

}  // namespace
}  // namespace plait
