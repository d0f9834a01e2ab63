#include "parallel/collective_watchdog.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <map>

#include "base/status_macros.h"
#include "base/tensor.h"
#include "parallel/collective_diagnosis.h"
#include "parallel/local_communicator.h"
#include "parallel/shared_window.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

using Clock = std::chrono::steady_clock;

constexpr double kTimeoutSeconds = 0.3;
// Far from a wait of a rank that goes on: a busy machine may keep it from running for long.
constexpr double kLongTimeoutSeconds = 1.5;

// Who spoke, and what they said.
struct Reports {
  std::mutex mutex;
  std::map<int, std::string> by_rank;
};

// Runs `body` on ranks watched by a watchdog each, which aborts the job.
void RunWatched(int ranks, Reports& reports,
                const std::function<absl::Status(Communicator&, Stream&)>& body,
                double timeout_seconds = kTimeoutSeconds) {
  const auto watched = [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
    Stream stream;
    const auto on_timeout = [&](const std::string& report) {
      // What is seen while the job is being aborted says nothing.
      const std::lock_guard lock(reports.mutex);
      if (!world->JobStatus().ok()) return;
      reports.by_rank[world->rank()] = report;
      world->Abort("the watchdog", 75);
    };
    const CollectiveWatchdog watchdog(world->ledger(), timeout_seconds, on_timeout);
    return body(*world, stream);
  };
  RunLocalRanks(ranks, watched).IgnoreError();
}

absl::Status Sum(Communicator& communicator, Stream& stream) {
  Tensor number = Tensor::FromValues<float>({1}, {1});
  return communicator.AllReduce(stream, number.vector(), ReduceOperation::kSum).status();
}

// Until the job is aborted: a rank that does something else.
absl::Status Dawdle(Communicator& world) {
  while (world.JobStatus().ok()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return absl::OkStatus();
}

TEST(CollectiveWatchdogTest, NamesARankThatDoesNotComeOnceAndInTime) {
  Reports reports;
  const Clock::time_point begin = Clock::now();
  RunWatched(4, reports, [](Communicator& world, Stream& stream) -> absl::Status {
    PLAIT_RETURN_IF_ERROR(Sum(world, stream));
    if (world.rank() == 2) return Dawdle(world);
    return world.Barrier();
  });
  EXPECT_LT(std::chrono::duration<double>(Clock::now() - begin).count(), kTimeoutSeconds + 2);
  ASSERT_EQ(reports.by_rank.size(), 1u);
  const std::string& report = reports.by_rank.at(0);
  EXPECT_THAT(report, HasSubstr("rank 0 has waited for"));
  EXPECT_THAT(report, HasSubstr("missing: rank 2"));
  EXPECT_THAT(report, ContainsRegex("rank 1 .*: waiting for .*last collective: barrier, call 2 of "
                                    "world, at parallel/collective_watchdog_test.cc:"));
  EXPECT_THAT(report, ContainsRegex("rank 2 .*: not waiting; last collective: all-reduce sum "
                                    "f32\\[1\\], call 1 of world"));
}

TEST(CollectiveWatchdogTest, TheNextRankSpeaksWhereTheLowestDoesNotWait) {
  Reports reports;
  RunWatched(3, reports, [](Communicator& world, Stream&) -> absl::Status {
    if (world.rank() == 0) return Dawdle(world);
    return world.Barrier();
  });
  ASSERT_EQ(reports.by_rank.size(), 1u);
  EXPECT_THAT(reports.by_rank.at(1), HasSubstr("missing: rank 0"));
  EXPECT_THAT(reports.by_rank.at(1),
              ContainsRegex("rank 0 .*: not waiting; last collective: none"));
}

TEST(CollectiveWatchdogTest, NamesTheRankInAnotherCollective) {
  Reports reports;
  RunWatched(3, reports, [](Communicator& world, Stream& stream) -> absl::Status {
    PLAIT_RETURN_IF_ERROR(Sum(world, stream));
    PLAIT_ASSIGN_OR_RETURN(const auto window, SharedWindow::Create(world, 8, 1));
    if (world.rank() == 1) return window->WaitForAll(1, 1);
    return world.Barrier();
  });
  ASSERT_EQ(reports.by_rank.size(), 1u);
  EXPECT_THAT(reports.by_rank.at(0), AllOf(HasSubstr("in another collective than the rest: rank 1"),
                                           HasSubstr("shared-memory wait")));
}

// Ranks of rows {0, 1} and {2, 3}, columns {0, 2} and {1, 3}.
TEST(CollectiveWatchdogTest, FollowsTheWaitsThroughCommunicatorsOfTheSameName) {
  Reports reports;
  RunWatched(4, reports, [](Communicator& world, Stream& stream) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(const auto row, world.Split(world.rank() / 2, world.rank(), "shard"));
    PLAIT_ASSIGN_OR_RETURN(const auto column,
                           world.Split(world.rank() % 2, world.rank(), "replicate"));
    PLAIT_RETURN_IF_ERROR(Sum(*row, stream));
    // Rank 3 keeps rank 2 waiting in their row; rank 0 waits for 2 in a column, 1 for 0 in a row.
    if (world.rank() == 3) return Dawdle(world);
    if (world.rank() == 2) return Sum(*row, stream);
    if (world.rank() == 0) return Sum(*column, stream);
    return Sum(*row, stream);
  });
  ASSERT_EQ(reports.by_rank.size(), 1u);
  EXPECT_THAT(reports.by_rank.at(0), ContainsRegex("missing: rank 3$"));
}

TEST(CollectiveWatchdogTest, NamesRanksThatWaitForEachOther) {
  Reports reports;
  RunWatched(2, reports, [](Communicator& world, Stream& stream) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(const auto first, world.Split(0, world.rank(), "first"));
    PLAIT_ASSIGN_OR_RETURN(const auto second, world.Split(0, world.rank(), "second"));
    return Sum(world.rank() == 0 ? *first : *second, stream);
  });
  ASSERT_EQ(reports.by_rank.size(), 1u);
  EXPECT_THAT(reports.by_rank.at(0), HasSubstr("waiting for each other: rank 0, 1"));
}

TEST(CollectiveWatchdogTest, NamesThePeerThatDoesNotSend) {
  Reports reports;
  RunWatched(3, reports, [](Communicator& world, Stream& stream) -> absl::Status {
    Tensor number = Tensor::FromValues<float>({1}, {1});
    if (world.rank() == 0) return world.Receive(stream, number.vector(), 1).status();
    if (world.rank() == 1) return Dawdle(world);
    return world.Barrier();
  });
  ASSERT_EQ(reports.by_rank.size(), 1u);
  EXPECT_THAT(reports.by_rank.at(0), ContainsRegex("missing: rank 1$"));
  EXPECT_THAT(reports.by_rank.at(0), HasSubstr("receive f32[1] from rank 1 of world, at"));
}

TEST(CollectiveWatchdogTest, SizesThatRanksNeedNotAgreeOnAreNotTold) {
  CollectiveCall call{.operation = CollectiveOperation::kAllToAll,
                      .dtype = static_cast<int32_t>(DType::kF32),
                      .sequence = 7};
  EXPECT_THAT(call.ToString(), HasSubstr("all-to-all f32, call 7 of "));
}

TEST(CollectiveWatchdogTest, IsSilentWhileTheRanksGoOn) {
  Reports reports;
  const auto body = [](Communicator& world, Stream& stream) -> absl::Status {
    // Together longer than the timeout, each wait much shorter.
    for (int i = 0; i < 20; ++i) {
      if (world.rank() == i % 2) std::this_thread::sleep_for(std::chrono::milliseconds(100));
      PLAIT_RETURN_IF_ERROR(Sum(world, stream));
    }
    return absl::OkStatus();
  };
  RunWatched(2, reports, body, kLongTimeoutSeconds);
  EXPECT_TRUE(reports.by_rank.empty());
}

TEST(CollectiveWatchdogTest, EndsTheProcessWithExitCode75) {
  EXPECT_EXIT(CollectiveWatchdog::EndProcess("rank 0 has waited"), ::testing::ExitedWithCode(75),
              "plait: rank 0 has waited");
}

TEST(CollectiveDiagnosisTest, AStoppedProcessIsMissingThoughItEnteredAWait) {
  const pid_t child = fork();
  if (child == 0) {
    while (true) pause();
  }
  const auto state_becomes = [child](ProcessState expected) {
    for (int i = 0; i < 500 && StateOf(child) != expected; ++i) usleep(2000);
    return StateOf(child) == expected;
  };
  EXPECT_TRUE(state_becomes(ProcessState::kRunning));
  kill(child, SIGSTOP);
  EXPECT_TRUE(state_becomes(ProcessState::kStopped));

  CollectiveCall call;
  call.operation = CollectiveOperation::kBarrier;
  call.sequence = 3;
  call.group = 1;
  const auto rank = [&](int64_t index, int64_t process) {
    RankActivity activity{.rank = index, .process = process, .calls = 3, .waiting_seconds = 5};
    activity.call = call;
    activity.memberships = {{1, static_cast<int32_t>(index), 3}};
    return ObservedRank{activity, StateOf(process)};
  };
  const std::vector<ObservedRank> ranks = {rank(0, getpid()), rank(1, child)};
  EXPECT_THAT(Diagnose(ranks).missing, ElementsAre(1));
  EXPECT_THAT(Report(ranks),
              AllOf(HasSubstr(", stopped): not waiting; last collective: barrier, call 3"),
                    HasSubstr("missing: rank 1 (its process is stopped)")));

  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(StateOf(child), ProcessState::kGone);
  EXPECT_THAT(Diagnose(std::vector{rank(0, getpid()), rank(1, child)}).sentence,
              HasSubstr("missing: rank 1 (its process is gone)"));
}

TEST(CollectiveDiagnosisTest, WaitsForOtherHostsAreSaid) {
  CollectiveCall call;
  call.operation = CollectiveOperation::kBarrier;
  call.sequence = 3;
  call.group = 1;
  std::vector<ObservedRank> ranks(2);
  for (int i = 0; i < 2; ++i) {
    ranks[i].activity = {.rank = i, .process = getpid(), .calls = 3, .waiting_seconds = 5};
    ranks[i].activity.call = call;
    ranks[i].activity.memberships = {{1, i, 3}};
  }
  EXPECT_THAT(Diagnose(ranks).missing, ElementsAre());
  EXPECT_THAT(Diagnose(ranks).sentence, HasSubstr("look at the other hosts' reports"));
}

// For ThreadSanitizer, and for torn calls: all fields of a call that is read belong together.
TEST(CollectiveLedgerTest, ACallIsReadWholeWhileItsRankMakesOthers) {
  const auto ledger = CollectiveLedger::Single();
  const int place = ledger->Join(/*group=*/7, /*rank=*/0);
  CollectiveCall call;
  call.site.fill('a');
  ledger->Enter(place, call);
  std::atomic<bool> done = false;
  std::thread reader([&] {
    while (!done) {
      const CollectiveCall read = ledger->Activities()[0].call;
      ASSERT_EQ(read.count, 3 * read.sequence);
      ASSERT_EQ(read.site[0], static_cast<char>('a' + read.sequence % 26));
      ASSERT_EQ(read.site[90], read.site[0]);
    }
  });
  for (int64_t i = 0; i < 20'000; ++i) {
    call.sequence = i;
    call.count = 3 * i;
    call.site.fill(static_cast<char>('a' + i % 26));
    ledger->Enter(place, call);
    if (i % 256 == 0) std::this_thread::yield();
  }
  done = true;
  reader.join();
  EXPECT_EQ(ledger->Activities()[0].memberships[0].sequence, 19'999);
  ledger->Leave(place);
  EXPECT_TRUE(ledger->Activities()[0].memberships.empty());
}

}  // namespace
}  // namespace plait
