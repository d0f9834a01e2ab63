#include "parallel/device_mesh.h"

#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

// Sizes in the order pipeline, replicate, shard, context, tensor, expert.
using Sizes = std::array<int64_t, kNumMeshAxes>;

absl::StatusOr<DeviceMesh> OneRank(const Sizes& sizes) {
  return DeviceMesh::Create(sizes, MakeSingleRankCommunicator());
}

TEST(DeviceMeshTest, OneRankHasEveryAxisOfSizeOne) {
  ASSERT_OK_AND_ASSIGN(const DeviceMesh mesh, OneRank({1, 1, 1, 1, 1, 1}));
  for (int axis = 0; axis < kNumMeshAxes; ++axis) {
    EXPECT_EQ(mesh.size(static_cast<MeshAxis>(axis)), 1);
    EXPECT_EQ(mesh.coordinate(static_cast<MeshAxis>(axis)), 0);
    EXPECT_EQ(mesh.axis(static_cast<MeshAxis>(axis)).size(), 1);
  }
  EXPECT_EQ(mesh.data_parallel_size(), 1);
  EXPECT_EQ(mesh.data_parallel_rank(), 0);
  EXPECT_EQ(mesh.data_parallel().size(), 1);
}

TEST(DeviceMeshTest, ShardTakesTheRanksThatAreLeft) {
  ASSERT_OK_AND_ASSIGN(const DeviceMesh mesh, OneRank({1, 1, 0, 1, 1, 1}));
  EXPECT_EQ(mesh.size(MeshAxis::kShard), 1);
}

TEST(DeviceMeshTest, RejectsAProductThatIsNotTheWorld) {
  EXPECT_THAT(OneRank({1, 2, 0, 1, 3, 1}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("mesh pipeline 1 x replicate 2 x shard 1 x context 1 x tensor 3 "
                                 "= 6 does not make a world of 1 ranks")));
}

TEST(DeviceMeshTest, RejectsAnAxisBelowOne) {
  EXPECT_THAT(OneRank({1, 1, 1, 1, 0, 1}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("mesh axis tensor: expected at least 1, got 0")));
}

TEST(DeviceMeshTest, RejectsAnExpertAxisThatDoesNotDivide) {
  EXPECT_THAT(OneRank({1, 1, 1, 1, 1, 2}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("expert = 2 does not divide replicate x shard x context = 1")));
}

}  // namespace
}  // namespace plait
