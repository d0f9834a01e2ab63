#include "parallel/unconnected_mesh.h"

#include <gtest/gtest.h>

#include <mutex>
#include <string>
#include <vector>

#include "base/execution.h"
#include "base/status_macros.h"
#include "parallel/local_communicator.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

// Size and rank of every communicator of the mesh.
std::vector<std::pair<int, int>> PlacesOf(const DeviceMesh& mesh) {
  std::vector<std::pair<int, int>> places;
  const auto add = [&](const Communicator& ranks) {
    places.emplace_back(ranks.size(), ranks.rank());
  };
  for (int axis = 0; axis < kNumMeshAxes; ++axis) add(mesh.axis(static_cast<MeshAxis>(axis)));
  for (int group = 0; group < kNumMeshGroups; ++group) {
    const DeviceMesh::Group& ranks = mesh.group(static_cast<MeshGroup>(group));
    add(*ranks.shard);
    add(*ranks.replicate);
    add(*ranks.owners);
  }
  for (const Communicator* ranks :
       {&mesh.world(), &mesh.data_parallel(), &mesh.microbatch(), &mesh.experts(), &mesh.model()}) {
    add(*ranks);
  }
  return places;
}

TEST(UnconnectedMeshTest, EveryRankIsWhereItIsInAMeshThatRuns) {
  // pipeline, replicate, shard, context, tensor, expert
  for (const std::array<int64_t, kNumMeshAxes>& sizes :
       {std::array<int64_t, kNumMeshAxes>{1, 2, 4, 1, 1, 2},
        {1, 1, 2, 2, 2, 4},
        {2, 1, 2, 1, 2, 2},
        {1, 2, 1, 2, 2, 1},
        {1, 1, 0, 1, 1, 8}}) {
    EXPECT_OK(RunLocalRanks(8, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
      PLAIT_ASSIGN_OR_RETURN(const DeviceMesh running, DeviceMesh::Create(sizes, world));
      PLAIT_ASSIGN_OR_RETURN(const DeviceMesh planned,
                             MakeUnconnectedMesh(sizes, 8, world->rank()));
      EXPECT_EQ(PlacesOf(planned), PlacesOf(running)) << "rank " << world->rank();
      return absl::OkStatus();
    }));
  }
}

TEST(UnconnectedMeshTest, ACollectiveFails) {
  ASSERT_OK_AND_ASSIGN(const DeviceMesh mesh, MakeUnconnectedMesh({1, 1, 4, 1, 1, 1}, 4, 2));
  EXPECT_THAT(mesh.world().Barrier(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                               ::testing::HasSubstr("for planning")));
}

TEST(UnconnectedMeshTest, AMeshThatDoesNotFitIsRefused) {
  EXPECT_THAT(MakeUnconnectedMesh({1, 3, 2, 1, 1, 1}, 8, 0).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       ::testing::HasSubstr("does not make a world of 8 ranks")));
}

}  // namespace
}  // namespace plait
