#include "parallel/device_mesh.h"

#include <algorithm>

#include "base/status_macros.h"
#include "base/tensor.h"
#include "parallel/local_communicator.h"
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
                       HasSubstr("expert = 2 does not divide shard x context = 1")));
}

// Every rank of six, as replicate 2 x shard 3: who it meets along each axis.
TEST(DeviceMeshTest, AxesConnectTheRanksThatDifferInThem) {
  EXPECT_OK(RunLocalRanks(6, [](const std::shared_ptr<Communicator>& world) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(const DeviceMesh mesh, DeviceMesh::Create({1, 2, 0, 1, 1, 1}, world));
    EXPECT_EQ(mesh.size(MeshAxis::kShard), 3);
    EXPECT_EQ(mesh.coordinate(MeshAxis::kReplicate), world->rank() / 3);
    EXPECT_EQ(mesh.coordinate(MeshAxis::kShard), world->rank() % 3);
    EXPECT_EQ(mesh.data_parallel_rank(), world->rank());
    EXPECT_EQ(mesh.axis(MeshAxis::kShard).rank(), world->rank() % 3);
    EXPECT_EQ(mesh.axis(MeshAxis::kReplicate).rank(), world->rank() / 3);
    EXPECT_EQ(mesh.axis(MeshAxis::kTensor).size(), 1);
    const auto members = [&](Communicator& ranks) {
      Stream stream;
      const Tensor own = Tensor::FromValues<int32_t>({1}, {world->rank()});
      Tensor all = Tensor::OnHost(DType::kI32, {ranks.size()});
      EXPECT_OK(ranks.AllGather(stream, own.vector(), all.vector()));
      return std::vector<int32_t>(all.values<int32_t>().begin(), all.values<int32_t>().end());
    };
    const int32_t first = world->rank() / 3 * 3;
    EXPECT_EQ(members(mesh.axis(MeshAxis::kShard)),
              (std::vector<int32_t>{first, first + 1, first + 2}));
    const int32_t share = world->rank() % 3;
    EXPECT_EQ(members(mesh.axis(MeshAxis::kReplicate)), (std::vector<int32_t>{share, share + 3}));
    EXPECT_EQ(members(*mesh.group(MeshGroup::kData).owners),
              (std::vector<int32_t>{0, 3, 1, 4, 2, 5}));
    EXPECT_EQ(members(mesh.data_parallel()), (std::vector<int32_t>{0, 1, 2, 3, 4, 5}));
    return absl::OkStatus();
  }));
}

// The expert axis deals neighbouring ranks of the shard axis: shards of an expert's parameters are
// on every second rank.
TEST(DeviceMeshTest, TheExpertAxisDividesTheShardAxis) {
  EXPECT_OK(RunLocalRanks(4, [](const std::shared_ptr<Communicator>& world) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(const DeviceMesh mesh, DeviceMesh::Create({1, 1, 4, 1, 1, 2}, world));
    EXPECT_EQ(mesh.coordinate(MeshAxis::kExpert), world->rank() % 2);
    EXPECT_EQ(mesh.axis(MeshAxis::kExpert).size(), 2);
    EXPECT_EQ(mesh.axis(MeshAxis::kExpert).rank(), world->rank() % 2);
    const DeviceMesh::Group& group = mesh.group(MeshGroup::kExpertData);
    EXPECT_EQ(group.shard->size(), 2);
    EXPECT_EQ(group.shard->rank(), world->rank() / 2);
    EXPECT_EQ(group.replicate->size(), 1);
    return absl::OkStatus();
  }));
}

// 16 ranks: pipeline 2 x shard 2 x context 2 x tensor 2, experts over neighbours of shard x
// context.
TEST(DeviceMeshTest, AllAxesMakeTheirGroups) {
  EXPECT_OK(RunLocalRanks(16, [](const std::shared_ptr<Communicator>& world) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(const DeviceMesh mesh, DeviceMesh::Create({2, 1, 2, 2, 2, 2}, world));
    const auto members = [&](Communicator& ranks) {
      Stream stream;
      const Tensor own = Tensor::FromValues<int32_t>({1}, {world->rank()});
      Tensor all = Tensor::OnHost(DType::kI32, {ranks.size()});
      EXPECT_OK(ranks.AllGather(stream, own.vector(), all.vector()));
      return std::vector<int32_t>(all.values<int32_t>().begin(), all.values<int32_t>().end());
    };
    const int32_t rank = world->rank(), stage = rank / 8 * 8, tensor = rank % 2;
    EXPECT_EQ(mesh.coordinate(MeshAxis::kPipeline), rank / 8);
    EXPECT_EQ(mesh.coordinate(MeshAxis::kShard), rank / 4 % 2);
    EXPECT_EQ(mesh.coordinate(MeshAxis::kContext), rank / 2 % 2);
    EXPECT_EQ(mesh.coordinate(MeshAxis::kTensor), tensor);
    EXPECT_EQ(mesh.coordinate(MeshAxis::kExpert), rank / 2 % 2);
    const auto from = [&](int32_t begin, int32_t step, int32_t count) {
      std::vector<int32_t> ranks;
      for (int32_t i = 0; i < count; ++i) ranks.push_back(begin + i * step);
      return ranks;
    };
    EXPECT_EQ(members(*mesh.group(MeshGroup::kData).shard), from(stage + tensor, 2, 4));
    EXPECT_EQ(members(*mesh.group(MeshGroup::kSequence).shard), from(stage, 1, 8));
    EXPECT_EQ(members(*mesh.group(MeshGroup::kExpertData).shard), from(stage + rank % 4, 4, 2));
    EXPECT_EQ(members(mesh.microbatch()), from(rank / 4 * 4, 1, 4));
    EXPECT_EQ(members(mesh.experts()), from(rank / 4 * 4, 1, 4));
    EXPECT_EQ(members(mesh.model()), from(0, 1, 16));
    EXPECT_EQ(members(mesh.axis(MeshAxis::kPipeline)), from(rank % 8, 8, 2));
    EXPECT_EQ(mesh.is_first_of_microbatch(), rank < 8 && rank % 4 == 0);
    EXPECT_EQ(mesh.data_parallel_rank_of(rank), mesh.data_parallel_rank());
    return absl::OkStatus();
  }));
}

// A rank that stands still is found in any of the communicators.
TEST(DeviceMeshTest, TheLedgerKnowsEveryCommunicatorOfAllAxes) {
  EXPECT_OK(RunLocalRanks(32, [](const std::shared_ptr<Communicator>& world) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(const DeviceMesh mesh, DeviceMesh::Create({2, 2, 2, 2, 2, 2}, world));
    // Six axes, seven unions of axes, experts' groups; the world has joined, too.
    const auto activities = world->ledger().Activities();
    const auto own = std::find_if(activities.begin(), activities.end(), [&](const auto& activity) {
      return activity.rank == world->rank();
    });
    EXPECT_NE(own, activities.end());
    EXPECT_EQ(own->memberships.size(), 17u);
    EXPECT_LT(own->memberships.size(), static_cast<size_t>(LedgerSlot::kMemberships));
    return absl::OkStatus();
  }));
}

}  // namespace
}  // namespace plait
