#include "parallel/nccl_communicator.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "base/status_macros.h"
#include "parallel/collective_watchdog.h"
#include "parallel/host_collectives.h"
#include "parallel/local_communicator.h"
#include "parallel/nccl_library.h"
#include "tests/support/device_execution.h"
#include "tests/support/fake_nccl.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// One rank of a test: `world` moves device memory by the fake and host memory by `host`.
struct Rank {
  Communicator& world;
  Communicator& host;
  Execution& execution;

  Stream& stream() const { return execution.communication(); }
};

std::shared_ptr<FakeNccl> MakeFake(FakeNccl::Completion completion = FakeNccl::Completion::kDone,
                                   const FakeNccl::Faults& faults = {}) {
  return std::make_shared<FakeNccl>(CudaExecution()->runtime(), completion, faults);
}

using Body = std::function<absl::Status(const Rank&)>;

absl::Status RunRanks(int ranks, const std::shared_ptr<FakeNccl>& fake, const NcclOptions& options,
                      const Body& body) {
  return RunLocalRanks(ranks, [&](const std::shared_ptr<Communicator>& host) -> absl::Status {
    Execution execution(
        {.device = {DeviceKind::kCuda, 0}, .runtime = fake->Runtime(), .num_threads = 1});
    PLAIT_ASSIGN_OR_RETURN(const auto world,
                           MakeNcclCommunicator(*host, execution.runtime(), fake, options));
    return body({*world, *host, execution});
  });
}

// Values that tell rank and place apart, whose sums depend on their order.
Tensor Numbers(DType dtype, int64_t elements, int rank) {
  Tensor numbers = Tensor::OnHost(dtype, {elements});
  for (int64_t i = 0; i < elements; ++i) {
    const int64_t mixed = (i * 7919 + rank * 104729) % 20011 - 10000;
    const double value = static_cast<double>(mixed) * 1.0001e-3;
    switch (dtype) {
      case DType::kBf16:
        numbers.data<BFloat16>()[i] = BFloat16(value);
        break;
      case DType::kF32:
        numbers.data<float>()[i] = static_cast<float>(value);
        break;
      case DType::kF64:
        numbers.data<double>()[i] = value;
        break;
      case DType::kI32:
        numbers.data<int32_t>()[i] = static_cast<int32_t>(mixed * 300'000);  // sums wrap around
        break;
      default:
        numbers.data<int64_t>()[i] = mixed * 900'000'000'000'000;
    }
  }
  return numbers;
}

bool SameBits(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() &&
         (a.bytes() == 0 || std::memcmp(a.raw(), b.raw(), a.bytes()) == 0);
}

// Does the same with host memory by the host's communicator and with device memory by NCCL's:
// operation(communicator, stream, input, output).
template <class Operation>
absl::Status ExpectSameBits(const char* what, const Rank& rank, const Tensor& input,
                            const Tensor& output, const Operation& operation) {
  Tensor expected = output.Clone(), expected_input = input.Clone();
  Stream host_stream;
  PLAIT_ASSIGN_OR_RETURN(const Event host_done,
                         operation(rank.host, host_stream, expected_input, expected));
  PLAIT_RETURN_IF_ERROR(host_done.Synchronize());
  PLAIT_ASSIGN_OR_RETURN(Tensor device_input, rank.execution.ToDevice(input));
  PLAIT_ASSIGN_OR_RETURN(Tensor device_output, rank.execution.ToDevice(output));
  PLAIT_RETURN_IF_ERROR(rank.stream().Wait(rank.execution.compute().Record()));
  PLAIT_ASSIGN_OR_RETURN(const Event done,
                         operation(rank.world, rank.stream(), device_input, device_output));
  PLAIT_RETURN_IF_ERROR(done.Synchronize());
  PLAIT_ASSIGN_OR_RETURN(const Tensor result, rank.execution.ToHost(device_output));
  EXPECT_TRUE(SameBits(result, expected))
      << what << " of " << input.num_elements() << " elements, rank " << rank.host.rank() << " of "
      << rank.host.size();
  return absl::OkStatus();
}

class NcclCommunicatorTest : public ::testing::TestWithParam<int> {
 protected:
  // And sees that everything was closed.
  void Run(const Body& body, const NcclOptions& options = {}) {
    const std::shared_ptr<FakeNccl> fake = MakeFake();
    EXPECT_OK(RunRanks(GetParam(), fake, options, body));
    EXPECT_EQ(fake->num_open(), 0);
    EXPECT_EQ(fake->num_aborts(), 0);
    EXPECT_EQ(fake->num_misuses(), 0);
  }
};

TEST_P(NcclCommunicatorTest, EveryOperationHasTheBitsOfTheLocalCommunicator) {
  const int ranks = GetParam();
  Run([ranks](const Rank& rank) -> absl::Status {
    const int own = rank.host.rank();
    for (const DType dtype : {DType::kBf16, DType::kF32, DType::kF64, DType::kI32, DType::kI64}) {
      for (const int64_t elements : {0, 1, 7, 64, 1000}) {
        const Tensor input = Numbers(dtype, elements, own);
        PLAIT_RETURN_IF_ERROR(
            ExpectSameBits("all-gather", rank, input, Numbers(dtype, ranks * elements, 9),
                           [](Communicator& by, Stream& stream, const Tensor& in, Tensor& out) {
                             return by.AllGather(stream, in.vector(), out.vector());
                           }));
        PLAIT_RETURN_IF_ERROR(ExpectSameBits(
            "all-gather in place", rank, Tensor::OnHost(dtype, {0}),
            Numbers(dtype, ranks * elements, own),
            [&](Communicator& by, Stream& stream, const Tensor&, Tensor& out) {
              return by.AllGather(stream, out.Flat(own * elements, {elements}).vector(),
                                  out.vector());
            }));
        PLAIT_RETURN_IF_ERROR(
            ExpectSameBits("reduce-scatter", rank, Numbers(dtype, ranks * elements, own),
                           Numbers(dtype, elements, 9),
                           [](Communicator& by, Stream& stream, const Tensor& in, Tensor& out) {
                             return by.ReduceScatter(stream, in.vector(), out.vector());
                           }));
        for (const ReduceOperation operation : {ReduceOperation::kSum, ReduceOperation::kMax}) {
          PLAIT_RETURN_IF_ERROR(
              ExpectSameBits("all-reduce", rank, Tensor::OnHost(dtype, {0}), input,
                             [&](Communicator& by, Stream& stream, const Tensor&, Tensor& out) {
                               return by.AllReduce(stream, out.vector(), operation);
                             }));
        }
        PLAIT_RETURN_IF_ERROR(
            ExpectSameBits("broadcast", rank, Tensor::OnHost(dtype, {0}), input,
                           [&](Communicator& by, Stream& stream, const Tensor&, Tensor& out) {
                             return by.Broadcast(stream, out.vector(), ranks - 1);
                           }));
      }
    }
    return absl::OkStatus();
  });
}

TEST_P(NcclCommunicatorTest, LargeReductionsHaveThemToo) {
  const int ranks = GetParam();
  // Scratch for 4096 f32 a rank: several rounds, the last one short.
  const NcclOptions options = {.scratch_bytes = 4 * 4096 * ranks};
  Run(
      [ranks](const Rank& rank) -> absl::Status {
        // More than each rank reduces alone (256 KiB); divisible by the ranks and not.
        for (const int64_t elements : {12 * 6000, 12 * 6000 + 1}) {
          PLAIT_RETURN_IF_ERROR(
              ExpectSameBits("all-reduce", rank, Tensor::OnHost(DType::kF32, {0}),
                             Numbers(DType::kF32, elements, rank.host.rank()),
                             [](Communicator& by, Stream& stream, const Tensor&, Tensor& out) {
                               return by.AllReduce(stream, out.vector(), ReduceOperation::kSum);
                             }));
        }
        return ExpectSameBits("reduce-scatter", rank,
                              Numbers(DType::kBf16, 9999 * ranks, rank.host.rank()),
                              Tensor::OnHost(DType::kBf16, {9999}),
                              [](Communicator& by, Stream& stream, const Tensor& in, Tensor& out) {
                                return by.ReduceScatter(stream, in.vector(), out.vector());
                              });
      },
      options);
}

TEST_P(NcclCommunicatorTest, AllToAllTakesUnequalCounts) {
  const int ranks = GetParam();
  Run([ranks](const Rank& rank) -> absl::Status {
    const int own = rank.host.rank();
    // Rank r sends 3 r + 2 p elements to peer p, but nothing to the one after it.
    const auto count = [&](int from, int to) -> int64_t {
      return to == (from + 1) % ranks ? 0 : 3 * from + 2 * to;
    };
    std::vector<int64_t> sent, received;
    int64_t num_sent = 0, num_received = 0;
    for (int peer = 0; peer < ranks; ++peer) {
      num_sent += sent.emplace_back(count(own, peer));
      num_received += received.emplace_back(count(peer, own));
    }
    for (const DType dtype : {DType::kBf16, DType::kF32, DType::kI32}) {
      PLAIT_RETURN_IF_ERROR(ExpectSameBits(
          "all-to-all", rank, Numbers(dtype, num_sent, own), Numbers(dtype, num_received, 9),
          [&](Communicator& by, Stream& stream, const Tensor& in, Tensor& out) {
            return by.AllToAll(stream, in.vector(), sent, out.vector(), received);
          }));
    }
    return absl::OkStatus();
  });
}

TEST_P(NcclCommunicatorTest, RanksSendAndReceive) {
  const int ranks = GetParam();
  Run([ranks](const Rank& rank) -> absl::Status {
    const int own = rank.host.rank();
    // Down the line of ranks.
    const auto pass_on = [&](Communicator& by, Stream& stream, const Tensor& in,
                             Tensor& out) -> absl::StatusOr<Event> {
      if (own > 0) {
        PLAIT_ASSIGN_OR_RETURN(const Event received, by.Receive(stream, out.vector(), own - 1));
        PLAIT_RETURN_IF_ERROR(received.Synchronize());
      }
      if (own + 1 < ranks) return by.Send(stream, in.vector(), own + 1);
      return stream.Record();
    };
    for (const DType dtype : {DType::kBf16, DType::kI32}) {
      for (int round = 0; round < 2; ++round) {
        const absl::Status status =
            ExpectSameBits("send and receive", rank, Numbers(dtype, 33, own + round),
                           Tensor::OnHost(dtype, {33}), pass_on);
        PLAIT_RETURN_IF_ERROR(status);
      }
    }
    return absl::OkStatus();
  });
}

// To the next rank and from it at once: sends alone would wait for each other's receives.
TEST_P(NcclCommunicatorTest, SendsInACircleDoNotWaitForEachOther) {
  const int ranks = GetParam();
  Run([ranks](const Rank& rank) -> absl::Status {
    const int own = rank.host.rank();
    const auto pass_around = [&](Communicator& by, Stream& stream, const Tensor& in, Tensor& out) {
      const Communicator::Sending send = {in.vector(), (own + 1) % ranks};
      const Communicator::Receiving receive = {out.vector(), (own + ranks - 1) % ranks};
      return by.SendAndReceive(stream, {&send, ranks > 1 ? size_t{1} : 0},
                               {&receive, ranks > 1 ? size_t{1} : 0});
    };
    return ExpectSameBits("send and receive at once", rank, Numbers(DType::kF32, 33, own),
                          Tensor::OnHost(DType::kF32, {33}), pass_around);
  });
}

TEST_P(NcclCommunicatorTest, SplitsAsTheHostDoes) {
  const int ranks = GetParam();
  Run([ranks](const Rank& rank) -> absl::Status {
    const int own = rank.host.rank();
    // Odd and even ranks, in reverse order; of 3 ranks one is alone.
    PLAIT_ASSIGN_OR_RETURN(const auto device, rank.world.Split(own % 2, -own, "parity"));
    PLAIT_ASSIGN_OR_RETURN(const auto host, rank.host.Split(own % 2, -own, "parity"));
    EXPECT_EQ(device->rank(), host->rank());
    EXPECT_EQ(device->size(), host->size());
    EXPECT_EQ(device->name(), "parity");
    const Rank part = {*device, *host, rank.execution};
    const auto sum = [](Communicator& by, Stream& stream, const Tensor& in, Tensor& out) {
      return by.ReduceScatter(stream, in.vector(), out.vector());
    };
    PLAIT_RETURN_IF_ERROR(ExpectSameBits("reduce-scatter of a part", part,
                                         Numbers(DType::kF32, 5 * host->size(), own),
                                         Tensor::OnHost(DType::kF32, {5}), sum));
    // The whole goes on beside its parts.
    return ExpectSameBits("reduce-scatter", rank, Numbers(DType::kF32, 5 * ranks, own),
                          Tensor::OnHost(DType::kF32, {5}), sum);
  });
}

TEST_P(NcclCommunicatorTest, HostMemoryMovesByTheHost) {
  const int ranks = GetParam();
  Run([ranks](const Rank& rank) -> absl::Status {
    rank.world.ledger().set_check(true);
    int64_t number = rank.host.rank() + 1;
    PLAIT_RETURN_IF_ERROR(
        AllReduceOnHost(rank.world, {&number, DType::kI64, 1}, ReduceOperation::kSum));
    EXPECT_EQ(number, ranks * (ranks + 1) / 2);
    PLAIT_ASSIGN_OR_RETURN(
        const Tensor all,
        GatherOnHost(rank.world, Tensor::FromValues<int32_t>({1}, {rank.host.rank()})));
    EXPECT_EQ(all.data<int32_t>()[ranks - 1], ranks - 1);
    PLAIT_ASSIGN_OR_RETURN(const auto memory, rank.world.AllocateShared(64));
    if (rank.host.rank() == 0) static_cast<char*>(memory.get())[1] = 7;
    PLAIT_RETURN_IF_ERROR(rank.world.Barrier());
    EXPECT_EQ(static_cast<char*>(memory.get())[1], 7);
    return absl::OkStatus();
  });
}

TEST_P(NcclCommunicatorTest, SumsOfTheLibraryAreTheSameOnAllRanks) {
  const int ranks = GetParam();
  Run(
      [ranks](const Rank& rank) -> absl::Status {
        // Small integers: exact in every order.
        Tensor numbers = Tensor::OnHost(DType::kF32, {2 * ranks});
        for (float& number : numbers.values<float>()) number = 1.0f + rank.host.rank();
        PLAIT_RETURN_IF_ERROR(
            ExpectSameBits("reduce-scatter", rank, numbers, Tensor::OnHost(DType::kF32, {2}),
                           [](Communicator& by, Stream& stream, const Tensor& in, Tensor& out) {
                             return by.ReduceScatter(stream, in.vector(), out.vector());
                           }));
        PLAIT_RETURN_IF_ERROR(
            ExpectSameBits("all-reduce", rank, Tensor::OnHost(DType::kF32, {0}), numbers,
                           [](Communicator& by, Stream& stream, const Tensor&, Tensor& out) {
                             return by.AllReduce(stream, out.vector(), ReduceOperation::kSum);
                           }));
        // bf16 stays in rank order.
        return ExpectSameBits("all-reduce", rank, Tensor::OnHost(DType::kBf16, {0}),
                              Numbers(DType::kBf16, 50, rank.host.rank()),
                              [](Communicator& by, Stream& stream, const Tensor&, Tensor& out) {
                                return by.AllReduce(stream, out.vector(), ReduceOperation::kSum);
                              });
      },
      {.sums = NcclOptions::Sums::kLibrary});
}

INSTANTIATE_TEST_SUITE_P(Ranks, NcclCommunicatorTest, ::testing::Values(1, 2, 3, 4));

// Small sums by NCCL, whose bits nobody looks at.
absl::Status Gather(const Rank& rank, int64_t elements = 4) {
  Tensor own = rank.execution.Zeros(DType::kF32, {elements});
  Tensor all = rank.execution.Zeros(DType::kF32, {elements * rank.world.size()});
  PLAIT_ASSIGN_OR_RETURN(const Event done,
                         rank.world.AllGather(rank.stream(), own.vector(), all.vector()));
  return done.Synchronize();
}

// Until the job is aborted: a rank that does something else.
absl::Status Dawdle(const Rank& rank) {
  while (rank.world.JobStatus().ok()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  return absl::OkStatus();
}

TEST(NcclFailureTest, AnAbortEndsWaitsAndEveryLaterCallGivesItsReason) {
  const std::shared_ptr<FakeNccl> fake = MakeFake();
  std::atomic<int> refused = 0;
  RunRanks(3, fake, {}, [&](const Rank& rank) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(const auto part, rank.world.Split(0, rank.host.rank(), "part"));
    PLAIT_RETURN_IF_ERROR(Gather(rank));
    if (rank.host.rank() == 1) rank.world.Abort("the loss is not finite", 17);
    const auto reason =
        StatusIs(absl::StatusCode::kAborted, HasSubstr("rank 1: the loss is not finite"));
    EXPECT_THAT(Gather(rank), reason);  // two of them wait for rank 1 here
    const Rank of_part = {*part, rank.host, rank.execution};
    EXPECT_THAT(Gather(of_part), reason);
    EXPECT_THAT(rank.world.Barrier(), reason);
    EXPECT_THAT(rank.world.Split(0, 0, "another"), reason);
    EXPECT_THAT(rank.world.JobStatus(), reason);
    int64_t number = 1;
    EXPECT_THAT(AllReduceOnHost(rank.world, {&number, DType::kI64, 1}, ReduceOperation::kSum),
                reason);
    ++refused;
    return absl::OkStatus();
  }).IgnoreError();
  EXPECT_EQ(refused, 3);
  EXPECT_EQ(fake->num_open(), 0);
  EXPECT_EQ(fake->num_aborts(), 6);
  EXPECT_EQ(fake->num_misuses(), 0);
}

TEST(NcclFailureTest, ARankThatFailsEndsTheOthersWaitsForTheDevice) {
  for (const auto completion : {FakeNccl::Completion::kDone, FakeNccl::Completion::kOnStream}) {
    const std::shared_ptr<FakeNccl> fake = MakeFake(completion);
    const absl::Status status = RunRanks(3, fake, {}, [](const Rank& rank) -> absl::Status {
      if (rank.host.rank() == 2) return absl::DataLossError("shard 3 is damaged");
      return Gather(rank);
    });
    EXPECT_THAT(status,
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("rank 2: shard 3 is damaged")));
    EXPECT_EQ(fake->num_open(), 0);
  }
}

// Who spoke, and what they said.
struct Reports {
  std::mutex mutex;
  std::map<int, std::string> by_rank;
};

constexpr double kTimeoutSeconds = 0.3;
// Far from a wait of a rank that goes on: a busy machine may keep it from running for long.
constexpr double kLongTimeoutSeconds = 1.5;

// As RunRanks, watched by a watchdog each, which aborts the job.
void RunWatched(int ranks, const std::shared_ptr<FakeNccl>& fake, Reports& reports,
                const Body& body, double timeout_seconds = kTimeoutSeconds) {
  RunRanks(ranks, fake, {}, [&](const Rank& rank) -> absl::Status {
    const auto on_timeout = [&](const std::string& report) {
      {
        const std::lock_guard lock(reports.mutex);
        if (!rank.world.JobStatus().ok()) return;
        reports.by_rank[rank.host.rank()] = report;
      }
      rank.world.Abort("the watchdog", 75);
    };
    const CollectiveWatchdog watchdog(rank.world.ledger(), timeout_seconds, on_timeout);
    return body(rank);
  }).IgnoreError();
}

TEST(NcclTimeoutTest, TheHostThatWaitsForACallNamesTheMissingRank) {
  Reports reports;
  const Clock::time_point begin = Clock::now();
  RunWatched(4, MakeFake(), reports, [](const Rank& rank) -> absl::Status {
    PLAIT_RETURN_IF_ERROR(Gather(rank));
    if (rank.host.rank() == 2) return Dawdle(rank);
    EXPECT_THAT(Gather(rank, 5), StatusIs(absl::StatusCode::kAborted, HasSubstr("the watchdog")));
    return absl::OkStatus();
  });
  EXPECT_LT(SecondsSince(begin), 2.3);
  ASSERT_EQ(reports.by_rank.size(), 1u);
  EXPECT_THAT(
      reports.by_rank.at(0),
      AllOf(HasSubstr("rank 0 has waited for"), ContainsRegex("missing: rank 2$"),
            ContainsRegex("rank 1 .*: waiting for .*last collective: all-gather f32\\[5\\], "
                          "call . of world, at parallel/nccl_communicator_test.cc:")));
}

TEST(NcclTimeoutTest, ADeviceThatWaitsIsReportedThoughItsHostGoesOn) {
  Reports reports;
  const Clock::time_point begin = Clock::now();
  RunWatched(
      3, MakeFake(FakeNccl::Completion::kOnStream), reports, [](const Rank& rank) -> absl::Status {
        PLAIT_ASSIGN_OR_RETURN(const auto part, rank.world.Split(0, rank.host.rank(), "part"));
        PLAIT_RETURN_IF_ERROR(Gather(rank));
        if (rank.host.rank() == 1) return Dawdle(rank);
        Tensor number = rank.execution.Zeros(DType::kF32, {6});
        PLAIT_ASSIGN_OR_RETURN(const Event first,
                               part->Broadcast(rank.stream(), number.vector(), /*root=*/1));
        // Given to the device as well, and not what it waits in.
        PLAIT_RETURN_IF_ERROR(
            rank.world.Broadcast(rank.stream(), number.vector(), /*root=*/1).status());
        // Rank 0 waits for its device; rank 2's host is at something else.
        if (rank.host.rank() == 2) return Dawdle(rank);
        EXPECT_THAT(first.Synchronize(),
                    StatusIs(absl::StatusCode::kAborted, HasSubstr("the watchdog")));
        return absl::OkStatus();
      });
  EXPECT_LT(SecondsSince(begin), 2.3);
  ASSERT_EQ(reports.by_rank.size(), 1u);
  EXPECT_THAT(
      reports.by_rank.at(0),
      AllOf(ContainsRegex("missing: rank 1$"),
            ContainsRegex("rank 0 .*: waiting for .* on its device; in: broadcast f32\\[6\\] with "
                          "rank 1, call 1 of part, at parallel/nccl_communicator_test.cc:"),
            ContainsRegex("rank 1 .*: not waiting; last collective: all-gather f32\\[4\\]"),
            ContainsRegex("rank 2 .*: waiting for .* on its device; in: broadcast f32\\[6\\]")));
}

TEST(NcclTimeoutTest, IsSilentWhileTheDevicesGoOn) {
  Reports reports;
  const auto body = [](const Rank& rank) -> absl::Status {
    // All given at once by rank 0; together they take longer than the timeout.
    Tensor number = rank.execution.Zeros(DType::kF32, {6});
    Event last;
    for (int i = 0; i < 20; ++i) {
      if (rank.host.rank() == 1) {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        // Of one wait, not of all together.
        EXPECT_LT(rank.host.ledger().Activities()[0].waiting_seconds, kLongTimeoutSeconds);
      }
      PLAIT_ASSIGN_OR_RETURN(last,
                             rank.world.Broadcast(rank.stream(), number.vector(), /*root=*/1));
    }
    EXPECT_OK(last.Synchronize());
    return absl::OkStatus();
  };
  RunWatched(2, MakeFake(FakeNccl::Completion::kOnStream), reports, body, kLongTimeoutSeconds);
  EXPECT_TRUE(reports.by_rank.empty());
}

TEST(NcclTimeoutTest, ItsCallsAreCountedApartFromTheHosts) {
  EXPECT_OK(RunRanks(2, MakeFake(), {}, [](const Rank& rank) -> absl::Status {
    PLAIT_RETURN_IF_ERROR(Gather(rank));
    PLAIT_RETURN_IF_ERROR(rank.world.Barrier());
    const auto memberships =
        rank.host.ledger().Activities()[static_cast<size_t>(rank.host.rank())].memberships;
    EXPECT_EQ(memberships.size(), 2u);
    EXPECT_NE(memberships.front().group, memberships.back().group);
    EXPECT_EQ(memberships.front().sequence, 1);  // the split for NCCL's own host communicator
    EXPECT_GT(memberships.back().sequence, 2);   // connecting, the gather and the barrier
    return rank.host.Barrier();
  }));
}

TEST(NcclFailureTest, RanksConnectAgainAfterAnErrorOnOneOfThem) {
  const std::shared_ptr<FakeNccl> fake = MakeFake();
  std::mutex mutex;
  std::map<int, std::string> told;
  EXPECT_OK(RunLocalRanks(3, [&](const std::shared_ptr<Communicator>& host) -> absl::Status {
    const int own = host->rank();
    Execution execution(
        {.device = {DeviceKind::kCuda, 0}, .runtime = fake->Runtime(), .num_threads = 1});
    const NcclOptions options = {.on_error = [&, own](const absl::Status& error) {
      const std::lock_guard lock(mutex);
      told[own] = std::string(error.message());
    }};
    {
      PLAIT_ASSIGN_OR_RETURN(const auto world,
                             MakeNcclCommunicator(*host, execution.runtime(), fake, options));
      PLAIT_RETURN_IF_ERROR(Gather({*world, *host, execution}));
      PLAIT_RETURN_IF_ERROR(host->Barrier());
      if (own == 1) {
        fake->BreakRank(1, NcclResult::kSystemError);
        fake->TakeAwayRank(1);
      }
      // Nobody is in a call: what came late is found all the same.
      const Clock::time_point begin = Clock::now();
      while (world->JobStatus().ok() && SecondsSince(begin) < 5) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      EXPECT_THAT(Gather({*world, *host, execution}),
                  StatusIs(absl::StatusCode::kUnavailable,
                           HasSubstr(own == 1 ? "NCCL: world: unhandled system error"
                                              : "NCCL: world: remote process exited")));
      EXPECT_THAT(world->Barrier(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("NCCL")));
    }
    PLAIT_RETURN_IF_ERROR(host->Barrier());
    PLAIT_ASSIGN_OR_RETURN(const auto world,
                           MakeNcclCommunicator(*host, execution.runtime(), fake, options));
    PLAIT_RETURN_IF_ERROR(Gather({*world, *host, execution}));
    return ExpectSameBits("all-reduce", {*world, *host, execution},
                          Tensor::OnHost(DType::kF32, {0}), Numbers(DType::kF32, 50, own),
                          [](Communicator& by, Stream& stream, const Tensor&, Tensor& out) {
                            return by.AllReduce(stream, out.vector(), ReduceOperation::kSum);
                          });
  }));
  ASSERT_EQ(told.size(), 3u);
  EXPECT_THAT(told[1], HasSubstr("unhandled system error"));
  EXPECT_THAT(told[2], HasSubstr("remote process exited"));
  EXPECT_EQ(fake->num_open(), 0);
  EXPECT_EQ(fake->num_aborts(), 3);
  EXPECT_EQ(fake->num_misuses(), 0);
}

TEST(NcclFailureTest, APeerThatGoesAwayEndsAWaitForTheDevice) {
  const std::shared_ptr<FakeNccl> fake = MakeFake(FakeNccl::Completion::kOnStream);
  const absl::Status status = RunRanks(2, fake, {}, [&](const Rank& rank) -> absl::Status {
    if (rank.host.rank() == 0) return Gather(rank);
    const CollectiveLedger& ledger = rank.host.ledger();
    while (!ledger.Activities()[0].on_device) std::this_thread::yield();
    fake->TakeAwayRank(1);
    return Dawdle(rank);
  });
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable,
                               HasSubstr("NCCL: world: remote process exited")));
}

TEST(NcclFailureTest, ConnectingHasADeadlineAndAllRanksLearnOfIt) {
  const std::shared_ptr<FakeNccl> fake =
      MakeFake(FakeNccl::Completion::kDone, {.rank_that_never_connects = 1});
  const Clock::time_point begin = Clock::now();
  std::atomic<int> told = 0;
  EXPECT_OK(RunLocalRanks(3, [&](const std::shared_ptr<Communicator>& host) -> absl::Status {
    const auto made =
        MakeNcclCommunicator(*host, fake->Runtime(), fake, {.connect_timeout_seconds = 0.2});
    EXPECT_THAT(made, StatusIs(absl::StatusCode::kDeadlineExceeded,
                               HasSubstr("NCCL: world: connecting took longer than 0.2 s")));
    ++told;
    return host->Barrier();  // the host's communicator works on
  }));
  EXPECT_EQ(told, 3);
  EXPECT_LT(SecondsSince(begin), 2.2);
  EXPECT_EQ(fake->num_open(), 0);
}

TEST(NcclFailureTest, ARootWithoutAnIdTellsAllRanks) {
  const std::shared_ptr<FakeNccl> fake =
      MakeFake(FakeNccl::Completion::kDone, {.no_unique_id = true});
  EXPECT_OK(RunLocalRanks(2, [&](const std::shared_ptr<Communicator>& host) -> absl::Status {
    EXPECT_THAT(MakeNcclCommunicator(*host, fake->Runtime(), fake),
                StatusIs(absl::StatusCode::kUnavailable,
                         HasSubstr("rank 0: NCCL: making an id: unhandled system error")));
    return absl::OkStatus();
  }));
}

TEST(NcclFailureTest, ACommunicatorThatDoesNotCloseIsAborted) {
  const std::shared_ptr<FakeNccl> fake =
      MakeFake(FakeNccl::Completion::kDone, {.never_closes = true});
  const Clock::time_point begin = Clock::now();
  EXPECT_OK(RunRanks(2, fake, {.close_timeout_seconds = 0.5}, [](const Rank& rank) -> absl::Status {
    std::vector<std::shared_ptr<Communicator>> parts;
    for (int i = 0; i < 10; ++i) {
      PLAIT_ASSIGN_OR_RETURN(parts.emplace_back(), rank.world.Split(0, rank.host.rank(), "part"));
    }
    return Gather(rank);
  }));
  EXPECT_LT(SecondsSince(begin), 3);  // one waits, not all eleven of a rank
  EXPECT_EQ(fake->num_open(), 0);
  EXPECT_EQ(fake->num_aborts(), 22);
}

TEST(NcclFailureTest, RefusesWhatRanksCannotMean) {
  EXPECT_OK(RunRanks(2, MakeFake(), {}, [](const Rank& rank) -> absl::Status {
    EXPECT_THAT(
        rank.world.Split(-2, 0, "part"),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("expected a color from 0, got -2")));
    Tensor numbers = rank.execution.Zeros(DType::kF32, {3});
    const std::vector<int64_t> sent = {1, 2}, received = {2, 1};
    EXPECT_THAT(
        rank.world.AllToAll(rank.stream(), numbers.vector(), sent, numbers.vector(), received),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("sends itself")));
    return absl::OkStatus();
  }));
}

TEST(NcclLibraryTest, ALibraryThatIsNotThereIsAFailedPrecondition) {
  EXPECT_THAT(LoadNccl("libnccl_of_another_machine.so.2"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("NCCL: ")));
  // A library, but not NCCL.
  EXPECT_THAT(LoadNccl("libc.so.6"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("NCCL: ")));
}

TEST(NcclLibraryTest, WhereItIsFoundItsIdsDiffer) {
  const auto nccl = LoadNccl();
  if (!nccl.ok()) GTEST_SKIP() << nccl.status();
  NcclUniqueId first, second;
  ASSERT_EQ((*nccl)->GetUniqueId(first), NcclResult::kSuccess);
  ASSERT_EQ((*nccl)->GetUniqueId(second), NcclResult::kSuccess);
  EXPECT_NE(first.bytes, second.bytes);
  EXPECT_EQ((*nccl)->Describe(NcclResult::kRemoteError, nullptr),
            "remote process exited or there was a network error");
}

}  // namespace
}  // namespace plait
