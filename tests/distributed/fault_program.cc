// A small program of collectives in which one rank makes one mistake, for fault_injection_test.py.
//
// usage: distributed_fault_program FAULT RANK CHECK TIMEOUT
//   FAULT    none, or what RANK does once, in the third round: skip (leaves a barrier out), swap (a
//            barrier before an all-reduce), count, type (of an all-reduce), stop (by SIGSTOP),
//            dawdle (never comes), dawdle-in-part (the same, before a part's collective), fail (an
//            error of its own), agree (an error that all ranks are told; rank 0 leaves late),
//            agree-and-stop (the same; RANK stops by SIGSTOP before it leaves), throw (an
//            exception), kill (by SIGKILL)
//   CHECK    1: calls are compared
//   TIMEOUT  the watchdog's, seconds
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "base/exit_code.h"
#include "base/status_macros.h"
#include "base/tensor.h"
#include "parallel/collective_watchdog.h"
#include "parallel/shared_window.h"
#include "parallel/status_agreement.h"
#include "tools/plait.h"
#include "tools/ranks.h"

namespace plait {
namespace {

constexpr int kRounds = 5;
constexpr int kFaultyRound = 2;

absl::Status Sum(Communicator& world, Stream& stream, DType dtype, int64_t elements) {
  Tensor numbers = Tensor::OnHost(dtype, {elements});
  numbers.FillZero();
  PLAIT_ASSIGN_OR_RETURN(const Event done,
                         world.AllReduce(stream, numbers.vector(), ReduceOperation::kSum));
  return done.Synchronize();
}

void Announce(const char* fault) {
  std::fprintf(stderr, "fault: %s\n", fault);
  std::fflush(stderr);
}

absl::Status Rounds(Communicator& world, const std::string& fault, int culprit) {
  Stream stream;
  PLAIT_ASSIGN_OR_RETURN(const auto part, world.Split(0, world.rank(), "part"));
  PLAIT_ASSIGN_OR_RETURN(const auto window, SharedWindow::Create(world, 64, 1));
  for (int round = 0; round < kRounds; ++round) {
    const std::string now = round == kFaultyRound && world.rank() == culprit ? fault : "none";
    if (now != "none") Announce(now.c_str());
    if (now == "fail") return absl::DataLossError("data/shard-00003.h5: its digest is wrong");
    if (fault.starts_with("agree") && round == kFaultyRound) {
      const absl::Status status = AgreeOnStatus(
          world, now == fault ? absl::DataLossError("its own reason") : absl::OkStatus());
      if (now == "agree-and-stop") kill(getpid(), SIGSTOP);
      return status;
    }
    if (now == "throw") throw std::runtime_error("no more threads");
    if (now == "kill") kill(getpid(), SIGKILL);
    if (now == "stop") kill(getpid(), SIGSTOP);
    while (now == "dawdle") pause();
    if (now == "swap") PLAIT_RETURN_IF_ERROR(world.Barrier());
    PLAIT_RETURN_IF_ERROR(
        Sum(world, stream, now == "type" ? DType::kF64 : DType::kF32, now == "count" ? 127 : 128));
    if (now != "skip" && now != "swap") PLAIT_RETURN_IF_ERROR(world.Barrier());
    Tensor numbers = Tensor::FromValues<int64_t>({2}, {1, 2});
    PLAIT_ASSIGN_OR_RETURN(const Event sent, world.Broadcast(stream, numbers.vector(), 0));
    PLAIT_RETURN_IF_ERROR(sent.Synchronize());
    while (now == "dawdle-in-part") pause();
    PLAIT_RETURN_IF_ERROR(Sum(*part, stream, DType::kBf16, 64));
    if (window != nullptr) PLAIT_RETURN_IF_ERROR(window->Meet());
  }
  return world.Barrier();
}

int Main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: %s FAULT RANK CHECK TIMEOUT\n", argv[0]);
    return 2;
  }
  const std::string fault = argv[1];
  const int culprit = std::atoi(argv[2]);
  const bool check = std::atoi(argv[3]) != 0;
  const double timeout_seconds = std::atof(argv[4]);
  const absl::Status status = RunOnRanks([&](const std::shared_ptr<Communicator>& world) {
    world->ledger().set_check(check);
    const CollectiveWatchdog watchdog(world->ledger(), timeout_seconds);
    return Rounds(*world, fault, culprit);
  });
  // As plait's main program does it, late: what is to be said was said before.
  const char* const rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (fault == "agree" && rank != nullptr && std::atoi(rank) == 0) sleep(2);
  if (!status.message().empty()) PrintError(std::string(status.message()));
  return static_cast<int>(ExitCodeOf(status));
}

}  // namespace
}  // namespace plait

int main(int argc, char** argv) { return plait::Main(argc, argv); }
