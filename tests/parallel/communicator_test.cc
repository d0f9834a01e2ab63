#include "parallel/communicator.h"

#include <array>

#include "base/tensor.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

class SingleRankCommunicatorTest : public ::testing::Test {
 protected:
  std::unique_ptr<Communicator> communicator_ = MakeSingleRankCommunicator();
  Stream stream_;
  Tensor input_ = Tensor::FromValues<float>({3}, {1, 2, 3});
  Tensor output_ = Tensor::OnHost(DType::kF32, {3});
};

TEST_F(SingleRankCommunicatorTest, IsRankZeroOfOne) {
  EXPECT_EQ(communicator_->rank(), 0);
  EXPECT_EQ(communicator_->size(), 1);
  EXPECT_OK(communicator_->Barrier());
}

TEST_F(SingleRankCommunicatorTest, AllGatherCopies) {
  ASSERT_OK(communicator_->AllGather(stream_, input_.vector(), output_.vector()));
  EXPECT_EQ(output_.data<float>()[2], 3.0f);
}

TEST_F(SingleRankCommunicatorTest, ReduceScatterCopies) {
  ASSERT_OK(communicator_->ReduceScatter(stream_, input_.vector(), output_.vector()));
  EXPECT_EQ(output_.data<float>()[1], 2.0f);
}

TEST_F(SingleRankCommunicatorTest, AllReduceAndBroadcastLeaveTheBuffer) {
  ASSERT_OK(communicator_->AllReduce(stream_, input_.vector(), ReduceOperation::kSum));
  ASSERT_OK(communicator_->Broadcast(stream_, input_.vector(), /*root=*/0));
  EXPECT_EQ(input_.data<float>()[2], 3.0f);
}

TEST_F(SingleRankCommunicatorTest, AllToAllCopies) {
  const std::array<int64_t, 1> counts = {3};
  ASSERT_OK(communicator_->AllToAll(stream_, input_.vector(), counts, output_.vector(), counts));
  EXPECT_EQ(output_.data<float>()[0], 1.0f);
}

TEST_F(SingleRankCommunicatorTest, RejectsOutputOfAnotherSize) {
  Tensor wrong = Tensor::OnHost(DType::kF32, {2});
  EXPECT_THAT(communicator_->AllGather(stream_, input_.vector(), wrong.vector()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("all-gather: expected an output of 3 f32 elements, got 2 f32")));
}

TEST_F(SingleRankCommunicatorTest, RejectsAnAllToAllWithoutACountPerRank) {
  const std::array<int64_t, 2> counts = {1, 2};
  EXPECT_THAT(
      communicator_->AllToAll(stream_, input_.vector(), counts, output_.vector(), counts),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("expected one count per rank")));
}

TEST_F(SingleRankCommunicatorTest, HasNoPeers) {
  EXPECT_THAT(communicator_->Send(stream_, input_.vector(), 1),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("there is no peer 1")));
  EXPECT_THAT(communicator_->Receive(stream_, output_.vector(), 1),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("there is no peer 1")));
  EXPECT_THAT(communicator_->Broadcast(stream_, output_.vector(), 2),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rank 2 does not exist")));
}

TEST_F(SingleRankCommunicatorTest, AbortEndsTheProcessWithTheReason) {
  EXPECT_EXIT(communicator_->Abort("loss is not finite"), ::testing::ExitedWithCode(70),
              "rank 0 aborts: loss is not finite");
}

}  // namespace
}  // namespace plait
