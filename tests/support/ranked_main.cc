#include <gtest/gtest.h>

#include <cstdio>

#include "base/log.h"
#include "parallel/collective_watchdog.h"
#include "parallel/mpi_communicator.h"
#include "tests/support/ranked.h"

namespace plait {
namespace {

std::shared_ptr<Communicator>& World() {
  static std::shared_ptr<Communicator> world;
  return world;
}

// What the ranks that do not print say: their failures.
class FailurePrinter final : public ::testing::EmptyTestEventListener {
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "rank %d: %s:%d: %s\n", RankedWorld()->rank(),
                 result.file_name() == nullptr ? "?" : result.file_name(), result.line_number(),
                 result.message());
  }
};

}  // namespace

const std::shared_ptr<Communicator>& RankedWorld() { return World(); }

}  // namespace plait

// A failing rank's exit code fails the job: the launcher passes it on. A rank that left a test
// early makes the others wait: the watchdog ends that.
int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  absl::StatusOr<std::shared_ptr<plait::Communicator>> world = plait::MakeWorld();
  if (!world.ok()) {
    std::fprintf(stderr, "%s\n", world.status().ToString().c_str());
    return 1;
  }
  plait::World() = *std::move(world);
  plait::SetLogRank(plait::RankedWorld()->rank());
  if (plait::RankedWorld()->rank() != 0) {
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new plait::FailurePrinter);
  }
  int failed = 0;
  {
    const plait::CollectiveWatchdog watchdog(plait::RankedWorld()->ledger(),
                                             /*timeout_seconds=*/60);
    failed = RUN_ALL_TESTS();
  }
  plait::World() = nullptr;  // finalises MPI
  return failed;
}
