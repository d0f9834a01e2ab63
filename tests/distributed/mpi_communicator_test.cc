// Every operation of the MPI communicator, on as many ranks as the launcher started.
#include "parallel/mpi_communicator.h"

#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/digest.h"
#include "base/tensor.h"
#include "parallel/collective_diagnosis.h"
#include "parallel/shared_window.h"
#include "tests/support/ranked.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

// Small integers tell rank and place apart and add up exactly in every dtype: at most 4 ranks x 64.
Tensor Numbers(DType dtype, int64_t elements, int rank) {
  Tensor numbers = Tensor::OnHost(DType::kF64, {elements});
  for (int64_t i = 0; i < elements; ++i) {
    numbers.data<double>()[i] = 10.0 * (rank + 1) + static_cast<double>(i % 20);
  }
  if (dtype != DType::kI64 && dtype != DType::kI32) return numbers.Converted(dtype);
  Tensor integers = Tensor::OnHost(dtype, {elements});
  for (int64_t i = 0; i < elements; ++i) {
    if (dtype == DType::kI64) integers.data<int64_t>()[i] = std::llround(numbers.data<double>()[i]);
    if (dtype == DType::kI32) {
      integers.data<int32_t>()[i] = static_cast<int32_t>(numbers.data<double>()[i]);
    }
  }
  return integers;
}

std::vector<double> Values(const Tensor& tensor) {
  std::vector<double> values;
  for (int64_t i = 0; i < tensor.num_elements(); ++i) {
    switch (tensor.dtype()) {
      case DType::kI64:
        values.push_back(static_cast<double>(tensor.data<int64_t>()[i]));
        break;
      case DType::kI32:
        values.push_back(tensor.data<int32_t>()[i]);
        break;
      default:
        values.push_back(tensor.Flat(i, {1}).Converted(DType::kF64).data<double>()[0]);
    }
  }
  return values;
}

class MpiCommunicatorTest : public ::testing::TestWithParam<DType> {
 protected:
  Communicator& world() { return *RankedWorld(); }
  int rank() { return world().rank(); }
  int size() { return world().size(); }
  void Done(const absl::StatusOr<Event>& event) {
    ASSERT_OK(event);
    ASSERT_OK(event->Synchronize());
  }

  Stream stream_;
};

TEST_P(MpiCommunicatorTest, AllGatherPutsRanksInOrderAlsoInPlace) {
  const Tensor own = Numbers(GetParam(), 7, rank());
  Tensor all = Tensor::OnHost(GetParam(), {7 * size()});
  Done(world().AllGather(stream_, own.vector(), all.vector()));
  std::vector<double> expected;
  for (int peer = 0; peer < size(); ++peer) {
    const std::vector<double> part = Values(Numbers(GetParam(), 7, peer));
    expected.insert(expected.end(), part.begin(), part.end());
  }
  EXPECT_THAT(Values(all), ElementsAreArray(expected));

  Tensor in_place = Tensor::OnHost(GetParam(), {7 * size()});
  Tensor place = in_place.Flat(7 * rank(), {7});
  std::memcpy(place.raw(), own.raw(), own.bytes());
  Done(world().AllGather(stream_, place.vector(), in_place.vector()));
  EXPECT_THAT(Values(in_place), ElementsAreArray(expected));
}

TEST_P(MpiCommunicatorTest, ReduceScatterAddsAllRanksParts) {
  const Tensor input = Numbers(GetParam(), 3 * size(), rank());
  Tensor part = Tensor::OnHost(GetParam(), {3});
  Done(world().ReduceScatter(stream_, input.vector(), part.vector()));
  std::vector<double> expected(3);
  for (int peer = 0; peer < size(); ++peer) {
    const std::vector<double> other = Values(Numbers(GetParam(), 3 * size(), peer));
    for (int i = 0; i < 3; ++i) expected[i] += other[3 * rank() + i];
  }
  EXPECT_THAT(Values(part), ElementsAreArray(expected));
}

TEST_P(MpiCommunicatorTest, AllReduceTakesSumAndMaximum) {
  // The second is over the 16 KB up to which every rank reduces all of it, and does not divide.
  for (const int64_t elements : {5, 10'007}) {
    Tensor sum = Numbers(GetParam(), elements, rank());
    Tensor maximum = Numbers(GetParam(), elements, rank());
    Done(world().AllReduce(stream_, sum.vector(), ReduceOperation::kSum));
    Done(world().AllReduce(stream_, maximum.vector(), ReduceOperation::kMax));
    std::vector<double> expected(static_cast<size_t>(elements));
    for (int peer = 0; peer < size(); ++peer) {
      for (size_t i = 0; i < expected.size(); ++i) {
        expected[i] += 10.0 * (peer + 1) + static_cast<double>(i % 20);
      }
    }
    EXPECT_THAT(Values(sum), ElementsAreArray(expected));
    EXPECT_THAT(Values(maximum),
                ElementsAreArray(Values(Numbers(GetParam(), elements, size() - 1))));
  }
}

TEST_P(MpiCommunicatorTest, BroadcastsFromEveryRoot) {
  for (int root = 0; root < size(); ++root) {
    Tensor numbers = Numbers(GetParam(), 9, rank());
    Done(world().Broadcast(stream_, numbers.vector(), root));
    EXPECT_THAT(Values(numbers), ElementsAreArray(Values(Numbers(GetParam(), 9, root))));
  }
}

TEST_P(MpiCommunicatorTest, AllToAllTakesCountsPerPeer) {
  // Rank r sends r + p elements to peer p; rank 0 nothing to itself.
  std::vector<int64_t> sent, received;
  int64_t place = 0;
  for (int peer = 0; peer < size(); ++peer) {
    sent.push_back(rank() + peer);
    received.push_back(rank() + peer);
    place += rank() + peer;
  }
  const Tensor input = Numbers(GetParam(), place, rank());
  Tensor output = Tensor::OnHost(GetParam(), {place});
  Done(world().AllToAll(stream_, input.vector(), sent, output.vector(), received));
  std::vector<double> expected;
  for (int peer = 0; peer < size(); ++peer) {
    int64_t skip = 0, total = 0;
    for (int to = 0; to < size(); ++to) {
      if (to < rank()) skip += peer + to;
      total += peer + to;
    }
    const std::vector<double> theirs = Values(Numbers(GetParam(), total, peer));
    expected.insert(expected.end(), theirs.begin() + skip, theirs.begin() + skip + peer + rank());
  }
  EXPECT_THAT(Values(output), ElementsAreArray(expected));
}

TEST_P(MpiCommunicatorTest, NeighboursSendAndReceive) {
  const int next = (rank() + 1) % size(), previous = (rank() + size() - 1) % size();
  const Tensor sent = Numbers(GetParam(), 11, rank());
  Tensor received = Tensor::OnHost(GetParam(), {11});
  const auto sending = world().Send(stream_, sent.vector(), next);
  Done(world().Receive(stream_, received.vector(), previous));
  Done(sending);
  EXPECT_THAT(Values(received), ElementsAreArray(Values(Numbers(GetParam(), 11, previous))));

  Tensor received_at_once = Tensor::OnHost(GetParam(), {11});
  const Communicator::Sending send = {sent.vector(), previous};
  const Communicator::Receiving receive = {received_at_once.vector(), next};
  Done(world().SendAndReceive(stream_, {&send, 1}, {&receive, 1}));
  EXPECT_THAT(Values(received_at_once), ElementsAreArray(Values(Numbers(GetParam(), 11, next))));
}

INSTANTIATE_TEST_SUITE_P(DTypes, MpiCommunicatorTest,
                         ::testing::Values(DType::kBf16, DType::kF32, DType::kF64, DType::kI64),
                         [](const auto& test) { return std::string(Name(test.param)); });

// Sums that round differently in every order: tenths.
TEST_F(MpiCommunicatorTest, AllReduceGivesAllRanksTheSameBits) {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    for (const int64_t elements : {64, 30'011}) {
      Tensor numbers = Tensor::OnHost(DType::kF64, {elements});
      for (int64_t i = 0; i < elements; ++i) {
        numbers.data<double>()[i] = 0.1 * static_cast<double>((i * 7 + rank() * 13) % 101) + 0.01;
      }
      Tensor sum = numbers.Converted(dtype);
      Done(world().AllReduce(stream_, sum.vector(), ReduceOperation::kSum));
      const std::string digest = DigestOf(sum.raw(), sum.bytes());
      Tensor words = Tensor::OnHost(DType::kI64, {static_cast<int64_t>(digest.size() / 8)});
      std::memcpy(words.raw(), digest.data(), words.bytes());
      Tensor all = Tensor::OnHost(DType::kI64, {size() * words.num_elements()});
      Done(world().AllGather(stream_, words.vector(), all.vector()));
      for (int peer = 0; peer < size(); ++peer) {
        EXPECT_EQ(std::memcmp(all.Flat(peer * words.num_elements(), words.shape()).raw(),
                              words.raw(), words.bytes()),
                  0)
            << "rank " << peer << ", " << elements << " elements";
      }
    }
  }
}

TEST_F(MpiCommunicatorTest, AGatherGoesOnWhileTheHostPollsAndComputes) {
  const int64_t elements = 100'000;
  Tensor own = Tensor::OnHost(DType::kI64, {elements});
  Tensor all = Tensor::OnHost(DType::kI64, {elements * size()});
  for (int64_t i = 0; i < elements; ++i) own.data<int64_t>()[i] = rank() * elements + i;
  ASSERT_OK_AND_ASSIGN(const Event gathered,
                       world().AllGather(stream_, own.vector(), all.vector()));
  for (int i = 0; i < 100; ++i) stream_.Poll();
  // Another one behind it, waited for first.
  Tensor number = Tensor::FromValues<int64_t>({1}, {rank()});
  Done(world().Broadcast(stream_, number.vector(), size() - 1));
  EXPECT_EQ(number.data<int64_t>()[0], size() - 1);
  ASSERT_OK(gathered.Synchronize());
  ASSERT_OK(gathered.Synchronize());
  int64_t wrong = 0;
  for (int64_t i = 0; i < all.num_elements(); ++i) wrong += all.data<int64_t>()[i] != i;
  EXPECT_EQ(wrong, 0);
}

TEST_F(MpiCommunicatorTest, SplitsByColorAndOrdersByKey) {
  ASSERT_OK_AND_ASSIGN(const auto part, world().Split(rank() % 2, -rank(), "parity"));
  EXPECT_EQ(part->size(), (size() + 1 - rank() % 2) / 2);
  EXPECT_EQ(part->name(), "parity");
  const Tensor own = Tensor::FromValues<int64_t>({1}, {rank()});
  Tensor all = Tensor::OnHost(DType::kI64, {part->size()});
  Done(part->AllGather(stream_, own.vector(), all.vector()));
  for (int i = 1; i < part->size(); ++i) {
    EXPECT_EQ(all.data<int64_t>()[i], all.data<int64_t>()[i - 1] - 2);
  }
  EXPECT_EQ(all.data<int64_t>()[part->rank()], rank());
}

TEST_F(MpiCommunicatorTest, AWindowIsSharedAndItsFlagsOrderWrites) {
  ASSERT_OK_AND_ASSIGN(
      const auto window,
      SharedWindow::Create(world(), sizeof(int64_t) * static_cast<size_t>(size()), 1));
  ASSERT_NE(window, nullptr) << "ranks of one host could not share memory";
  Tensor numbers = window->tensor(0, DType::kI64, {size()});
  for (int64_t round = 1; round <= 50; ++round) {
    numbers.data<int64_t>()[rank()] = round * (rank() + 1);
    window->Post(1, round);
    ASSERT_OK(window->WaitForAll(1, round));
    const int64_t* first = numbers.data<int64_t>();
    EXPECT_EQ(std::accumulate(first, first + size(), int64_t{0}),
              round * size() * (size() + 1) / 2);
    ASSERT_OK(window->Meet());
  }
}

TEST_F(MpiCommunicatorTest, ChecksThatCallsMatch) {
  world().ledger().set_check(true);
  Tensor numbers = Tensor::OnHost(DType::kF32, {rank() == 1 ? 3 : 4});
  const auto event = world().AllReduce(stream_, numbers.vector(), ReduceOperation::kSum);
  world().ledger().set_check(false);
  EXPECT_THAT(event, StatusIs(absl::StatusCode::kInternal,
                              HasSubstr("rank 1 calls all-reduce sum f32[3], call ")));
  ASSERT_OK(world().Barrier());
}

TEST_F(MpiCommunicatorTest, EveryRankReadsTheOthersActivity) {
  ASSERT_OK(world().Barrier());
  const std::vector<ObservedRank> ranks = Observe(world().ledger());
  ASSERT_OK(world().Barrier());
  ASSERT_EQ(ranks.size(), static_cast<size_t>(size()));
  for (int peer = 0; peer < size(); ++peer) {
    EXPECT_EQ(ranks[peer].activity.rank, peer);
    EXPECT_GT(ranks[peer].activity.calls, 0);
    EXPECT_EQ(ranks[peer].activity.call.operation, CollectiveOperation::kBarrier);
    EXPECT_EQ(ranks[peer].state, ProcessState::kRunning);
  }
}

}  // namespace
}  // namespace plait
