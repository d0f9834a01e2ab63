#include "parallel/communicator.h"

#include <array>
#include <numeric>

#include "base/status_macros.h"
#include "base/tensor.h"
#include "parallel/local_communicator.h"
#include "parallel/shared_window.h"
#include "tests/support/device_execution.h"
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

TEST_F(SingleRankCommunicatorTest, CollectivesCopyOrDoNothing) {
  EXPECT_EQ(communicator_->rank(), 0);
  EXPECT_EQ(communicator_->size(), 1);
  EXPECT_OK(communicator_->Barrier());
  ASSERT_OK(communicator_->AllGather(stream_, input_.vector(), output_.vector()));
  EXPECT_EQ(output_.data<float>()[2], 3.0f);
  output_.FillZero();
  ASSERT_OK(communicator_->ReduceScatter(stream_, input_.vector(), output_.vector()));
  EXPECT_EQ(output_.data<float>()[1], 2.0f);
  ASSERT_OK(communicator_->AllReduce(stream_, input_.vector(), ReduceOperation::kSum));
  ASSERT_OK(communicator_->Broadcast(stream_, input_.vector(), /*root=*/0));
  EXPECT_EQ(input_.data<float>()[2], 3.0f);
  output_.FillZero();
  const std::array<int64_t, 1> counts = {3};
  ASSERT_OK(communicator_->AllToAll(stream_, input_.vector(), counts, output_.vector(), counts));
  EXPECT_EQ(output_.data<float>()[0], 1.0f);
  ASSERT_OK_AND_ASSIGN(const auto part, communicator_->Split(0, 0, "part"));
  EXPECT_EQ(part->size(), 1);
  ASSERT_OK_AND_ASSIGN(const auto memory, communicator_->AllocateShared(64));
  EXPECT_NE(memory, nullptr);
}

TEST_F(SingleRankCommunicatorTest, CopiesWithinADevice) {
  Execution& execution = *CudaExecution();
  ASSERT_OK_AND_ASSIGN(const Tensor input, execution.ToDevice(input_));
  Tensor output = execution.Zeros(DType::kF32, {3});
  ASSERT_OK_AND_ASSIGN(const Event done, communicator_->AllGather(execution.compute(),
                                                                  input.vector(), output.vector()));
  ASSERT_OK(done.Synchronize());
  ASSERT_OK_AND_ASSIGN(const Tensor result, execution.ToHost(output));
  EXPECT_EQ(result.data<float>()[2], 3.0f);
}

TEST_F(SingleRankCommunicatorTest, RejectsWrongSizesAndRanks) {
  Tensor wrong = Tensor::OnHost(DType::kF32, {2});
  EXPECT_THAT(communicator_->AllGather(stream_, input_.vector(), wrong.vector()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("all-gather: expected an output of 3 f32 elements, got 2 f32")));
  EXPECT_THAT(communicator_->ReduceScatter(stream_, input_.vector(), wrong.vector()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("expected an input of 2 f32 elements, got 3 f32")));
  const std::array<int64_t, 2> counts = {1, 2};
  EXPECT_THAT(
      communicator_->AllToAll(stream_, input_.vector(), counts, output_.vector(), counts),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("expected one count per rank")));
  EXPECT_THAT(communicator_->Send(stream_, input_.vector(), 1),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("there is no peer 1")));
  EXPECT_THAT(communicator_->Receive(stream_, output_.vector(), 0),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("there is no peer 0")));
  EXPECT_THAT(communicator_->Broadcast(stream_, output_.vector(), 2),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rank 2 does not exist")));
}

TEST_F(SingleRankCommunicatorTest, RefusesToReduceF16) {
  Tensor half = Tensor::OnHost(DType::kF16, {2});
  EXPECT_THAT(communicator_->AllReduce(stream_, half.vector(), ReduceOperation::kSum),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("all-reduce: f16 is for storage only")));
  EXPECT_THAT(communicator_->ReduceScatter(stream_, half.vector(), half.vector()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("reduce-scatter: f16 is for storage only")));
}

TEST_F(SingleRankCommunicatorTest, AbortEndsTheProcessWithTheReason) {
  EXPECT_EXIT(communicator_->Abort("loss is not finite", 17), ::testing::ExitedWithCode(17),
              "rank 0 aborts: loss is not finite");
}

// Values that tell rank and place apart, and whose sums need an order in bf16.
Tensor Numbers(DType dtype, int64_t elements, int rank) {
  Tensor numbers = Tensor::OnHost(DType::kF64, {elements});
  for (int64_t i = 0; i < elements; ++i) {
    numbers.data<double>()[i] = 100.0 * (rank + 1) + static_cast<double>(i % 50);
  }
  return numbers.Converted(dtype);
}

double At(const Tensor& tensor, int64_t i) {
  return tensor.Converted(DType::kF64).data<double>()[i];
}

class LocalCommunicatorTest : public ::testing::TestWithParam<int> {};

TEST_P(LocalCommunicatorTest, MovesAndReduces) {
  const int ranks = GetParam();
  EXPECT_OK(
      RunLocalRanks(ranks, [ranks](const std::shared_ptr<Communicator>& world) -> absl::Status {
        Stream stream;
        const int rank = world->rank();
        for (const DType dtype : {DType::kBf16, DType::kF32, DType::kF64}) {
          // All-gather, also in place.
          const Tensor input = Numbers(dtype, 7, rank);
          Tensor all = Tensor::OnHost(dtype, {7 * ranks});
          PLAIT_RETURN_IF_ERROR(world->AllGather(stream, input.vector(), all.vector()).status());
          for (int peer = 0; peer < ranks; ++peer) {
            EXPECT_EQ(At(all, 7 * peer + 6), At(Numbers(dtype, 7, peer), 6));
          }
          Tensor own = all.Flat(7 * rank, {7});
          PLAIT_RETURN_IF_ERROR(world->AllGather(stream, own.vector(), all.vector()).status());

          // Sums of small integers are exact in f32, and rounded once to bf16.
          const Tensor addend = Numbers(dtype, 2 * ranks, 0);
          Tensor part = Tensor::OnHost(dtype, {2});
          PLAIT_RETURN_IF_ERROR(
              world->ReduceScatter(stream, addend.vector(), part.vector()).status());
          const Tensor exact = Tensor::FromValues<double>({1}, {ranks * At(addend, 2 * rank + 1)});
          EXPECT_EQ(At(part, 1), At(exact.Converted(dtype), 0));
          Tensor sum = Numbers(dtype, 5, rank);
          PLAIT_RETURN_IF_ERROR(
              world->AllReduce(stream, sum.vector(), ReduceOperation::kMax).status());
          EXPECT_EQ(At(sum, 3), At(Numbers(dtype, 5, ranks - 1), 3));
        }
        Tensor number = Tensor::FromValues<int64_t>({1}, {rank + 1});
        PLAIT_RETURN_IF_ERROR(
            world->AllReduce(stream, number.vector(), ReduceOperation::kSum).status());
        EXPECT_EQ(number.data<int64_t>()[0], ranks * (ranks + 1) / 2);
        number.data<int64_t>()[0] = 10 * rank;
        PLAIT_RETURN_IF_ERROR(world->Broadcast(stream, number.vector(), ranks - 1).status());
        EXPECT_EQ(number.data<int64_t>()[0], 10 * (ranks - 1));
        return world->Barrier();
      }));
}

TEST_P(LocalCommunicatorTest, AllToAllTakesCountsPerPeer) {
  const int ranks = GetParam();
  EXPECT_OK(
      RunLocalRanks(ranks, [ranks](const std::shared_ptr<Communicator>& world) -> absl::Status {
        // Rank r sends p + 1 times the number 10 r + p to peer p.
        Stream stream;
        std::vector<float> sent;
        std::vector<int64_t> sent_counts, received_counts;
        for (int peer = 0; peer < ranks; ++peer) {
          sent_counts.push_back(peer + 1);
          received_counts.push_back(world->rank() + 1);
          sent.insert(sent.end(), peer + 1, static_cast<float>(10 * world->rank() + peer));
        }
        const Tensor input = Tensor::FromValues<float>({static_cast<int64_t>(sent.size())}, sent);
        Tensor output = Tensor::OnHost(DType::kF32, {ranks * (world->rank() + 1)});
        PLAIT_RETURN_IF_ERROR(
            world->AllToAll(stream, input.vector(), sent_counts, output.vector(), received_counts)
                .status());
        for (int peer = 0; peer < ranks; ++peer) {
          EXPECT_EQ(output.data<float>()[peer * (world->rank() + 1)], 10.0f * peer + world->rank());
        }
        return absl::OkStatus();
      }));
}

TEST_P(LocalCommunicatorTest, NeighboursSendAndReceive) {
  const int ranks = GetParam();
  EXPECT_OK(
      RunLocalRanks(ranks, [ranks](const std::shared_ptr<Communicator>& world) -> absl::Status {
        Stream stream;
        const int next = (world->rank() + 1) % ranks,
                  previous = (world->rank() + ranks - 1) % ranks;
        for (int round = 0; round < 3; ++round) {
          const Tensor sent = Tensor::FromValues<int32_t>({1}, {100 * round + world->rank()});
          Tensor received = Tensor::OnHost(DType::kI32, {1});
          PLAIT_RETURN_IF_ERROR(world->Send(stream, sent.vector(), next).status());
          PLAIT_RETURN_IF_ERROR(world->Receive(stream, received.vector(), previous).status());
          EXPECT_EQ(received.data<int32_t>()[0], 100 * round + previous);
        }
        return absl::OkStatus();
      }));
}

TEST_P(LocalCommunicatorTest, SendsAndReceivesAtOnce) {
  const int ranks = GetParam();
  EXPECT_OK(
      RunLocalRanks(ranks, [ranks](const std::shared_ptr<Communicator>& world) -> absl::Status {
        Stream stream;
        const int next = (world->rank() + 1) % ranks,
                  previous = (world->rank() + ranks - 1) % ranks;
        const Tensor sent = Tensor::FromValues<int32_t>({2}, {world->rank(), -world->rank()});
        Tensor received = Tensor::OnHost(DType::kI32, {2});
        const Communicator::Sending sends[] = {{sent.Slice(0, 1).vector(), next},
                                               {sent.Slice(1, 2).vector(), previous}};
        const Communicator::Receiving receives[] = {{received.Slice(0, 1).vector(), previous},
                                                    {received.Slice(1, 2).vector(), next}};
        PLAIT_ASSIGN_OR_RETURN(const Event done, world->SendAndReceive(stream, sends, receives));
        PLAIT_RETURN_IF_ERROR(done.Synchronize());
        EXPECT_THAT(received.values<int32_t>(), ::testing::ElementsAre(previous, -next));
        EXPECT_OK(world->SendAndReceive(stream, {}, {}).status());
        const Communicator::Sending to_nobody = {sent.vector(), ranks};
        EXPECT_THAT(world->SendAndReceive(stream, {&to_nobody, 1}, {}),
                    StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("there is no peer")));
        return absl::OkStatus();
      }));
}

TEST_P(LocalCommunicatorTest, SplitsByColorAndOrdersByKey) {
  const int ranks = GetParam();
  EXPECT_OK(
      RunLocalRanks(ranks, [ranks](const std::shared_ptr<Communicator>& world) -> absl::Status {
        // Odd and even ranks, in reverse order.
        PLAIT_ASSIGN_OR_RETURN(const auto part,
                               world->Split(world->rank() % 2, -world->rank(), "parity"));
        EXPECT_EQ(part->size(), (ranks + 1 - world->rank() % 2) / 2);
        Stream stream;
        const Tensor own = Tensor::FromValues<int32_t>({1}, {world->rank()});
        Tensor all = Tensor::OnHost(DType::kI32, {part->size()});
        PLAIT_RETURN_IF_ERROR(part->AllGather(stream, own.vector(), all.vector()).status());
        for (int i = 1; i < part->size(); ++i) {
          EXPECT_EQ(all.data<int32_t>()[i], all.data<int32_t>()[i - 1] - 2);
        }
        return absl::OkStatus();
      }));
}

TEST_P(LocalCommunicatorTest, AWindowIsSharedAndItsFlagsOrderWrites) {
  const int ranks = GetParam();
  EXPECT_OK(
      RunLocalRanks(ranks, [ranks](const std::shared_ptr<Communicator>& world) -> absl::Status {
        PLAIT_ASSIGN_OR_RETURN(const auto window,
                               SharedWindow::Create(*world, sizeof(int64_t) * ranks, 1));
        Tensor numbers = window->tensor(0, DType::kI64, {ranks});
        for (int64_t round = 1; round <= 50; ++round) {
          numbers.data<int64_t>()[world->rank()] = round * (world->rank() + 1);
          window->Post(1, round);
          PLAIT_RETURN_IF_ERROR(window->WaitForAll(1, round));
          const int64_t sum =
              std::accumulate(numbers.data<int64_t>(), numbers.data<int64_t>() + ranks, int64_t{0});
          EXPECT_EQ(sum, round * ranks * (ranks + 1) / 2);
          PLAIT_RETURN_IF_ERROR(window->Meet());
        }
        return absl::OkStatus();
      }));
}

INSTANTIATE_TEST_SUITE_P(Ranks, LocalCommunicatorTest, ::testing::Values(2, 3, 4));

TEST(LocalCommunicatorFailureTest, ARankThatFailsEndsTheOthersWaits) {
  const absl::Status status =
      RunLocalRanks(3, [](const std::shared_ptr<Communicator>& world) -> absl::Status {
        if (world->rank() == 1) return absl::DataLossError("shard 3 is damaged");
        PLAIT_ASSIGN_OR_RETURN(const auto part, world->Split(0, 0, "part"));
        return world->Barrier();
      });
  EXPECT_THAT(status,
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("rank 1: shard 3 is damaged")));
}

// Runs `body` on three ranks in check mode and returns what they are told.
absl::Status Checked(const std::function<absl::Status(Communicator&, Stream&)>& body) {
  return RunLocalRanks(3, [&](const std::shared_ptr<Communicator>& world) {
    world->ledger().set_check(true);
    Stream stream;
    return body(*world, stream);
  });
}

TEST(CollectiveCheckTest, MatchingCallsPass) {
  EXPECT_OK(Checked([](Communicator& world, Stream& stream) -> absl::Status {
    Tensor numbers = Tensor::OnHost(DType::kF32, {4});
    PLAIT_RETURN_IF_ERROR(
        world.AllReduce(stream, numbers.vector(), ReduceOperation::kSum).status());
    return world.Barrier();
  }));
}

TEST(CollectiveCheckTest, NamesTheRankThatDiffers) {
  // Another operation.
  EXPECT_THAT(Checked([](Communicator& world, Stream& stream) -> absl::Status {
                if (world.rank() == 1) return world.Barrier();
                Tensor numbers = Tensor::OnHost(DType::kF32, {4});
                return world.AllReduce(stream, numbers.vector(), ReduceOperation::kSum).status();
              }),
              StatusIs(absl::StatusCode::kInternal,
                       HasSubstr("collectives do not match on world: rank 1 calls barrier, call 1 "
                                 "of world, at parallel/communicator_test.cc:")));
  // Another size.
  EXPECT_THAT(Checked([](Communicator& world, Stream& stream) -> absl::Status {
                Tensor numbers = Tensor::OnHost(DType::kF32, {world.rank() == 2 ? 3 : 4});
                return world.AllReduce(stream, numbers.vector(), ReduceOperation::kSum).status();
              }),
              StatusIs(absl::StatusCode::kInternal,
                       HasSubstr("rank 2 calls all-reduce sum f32[3], call 1")));
  // Another type.
  EXPECT_THAT(
      Checked([](Communicator& world, Stream& stream) -> absl::Status {
        Tensor numbers = Tensor::OnHost(world.rank() == 0 ? DType::kF64 : DType::kF32, {4});
        return world.AllReduce(stream, numbers.vector(), ReduceOperation::kSum).status();
      }),
      StatusIs(absl::StatusCode::kInternal, HasSubstr("rank 0 calls all-reduce sum f64[4]")));
}

}  // namespace
}  // namespace plait
