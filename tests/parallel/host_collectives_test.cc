#include "parallel/host_collectives.h"

#include "base/status_macros.h"
#include "parallel/local_communicator.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(HostCollectivesTest, BytesOfAnyLengthsAreExchanged) {
  for (const size_t longest : {0, 7, 8, 9, 5000}) {
    EXPECT_OK(RunLocalRanks(3, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
      const std::string first(longest, '\xff'), last(longest / 2, '\0');
      const std::string own = world->rank() == 0 ? first : world->rank() == 1 ? "" : last;
      std::vector<std::string> all;
      PLAIT_RETURN_IF_ERROR(ExchangeBytesOnHost(*world, own, [&](int rank, std::string_view bytes) {
        EXPECT_EQ(rank, static_cast<int>(all.size()));
        all.emplace_back(bytes);
        return absl::OkStatus();
      }));
      EXPECT_THAT(all, ElementsAre(first, "", last));
      return absl::OkStatus();
    }));
  }
}

TEST(HostCollectivesTest, BytesThatOneRankCannotUseDoNotKeepTheOthers) {
  EXPECT_OK(RunLocalRanks(3, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
    int taken = 0;
    const absl::Status status =
        ExchangeBytesOnHost(*world, "bytes", [&](int rank, std::string_view) {
          ++taken;
          return world->rank() == 1 && rank == 0 ? absl::DataLossError("torn") : absl::OkStatus();
        });
    EXPECT_EQ(taken, 3);
    if (world->rank() == 1) {
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kDataLoss, HasSubstr("torn")));
    } else {
      EXPECT_OK(status);
    }
    return world->Barrier();
  }));
}

}  // namespace
}  // namespace plait
