#include "parallel/collective_watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "parallel/collective_diagnosis.h"

namespace plait {
namespace {

using Clock = std::chrono::steady_clock;

// How much later a rank speaks that is not the one to speak; and where another has spoken, by when
// the launcher should have ended this one, too.
constexpr double kGraceSeconds = 1.0;
constexpr double kSpokenGraceSeconds = 6.0;
// Between two looks more periods than this have passed only where the process did not run.
constexpr double kMostPeriods = 4;

double SecondsBetween(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// How much longer than the timeout `own` holds its peace.
double GraceSeconds(std::span<const ObservedRank> ranks, int64_t own) {
  int64_t speaker = -1;  // the lowest rank of this host that waits and can speak
  for (const ObservedRank& rank : ranks) {
    if (rank.activity.reports) return kSpokenGraceSeconds;
    if (speaker < 0 && rank.Waits()) speaker = rank.activity.rank;
  }
  return speaker == own ? 0 : kGraceSeconds;
}

}  // namespace

CollectiveWatchdog::CollectiveWatchdog(CollectiveLedger& ledger, double timeout_seconds,
                                       OnTimeout on_timeout)
    : ledger_(ledger),
      timeout_seconds_(timeout_seconds),
      on_timeout_(std::move(on_timeout)),
      thread_([this](const std::stop_token& stop) { Watch(stop); }) {}

void CollectiveWatchdog::EndProcess(const std::string& report) {
  std::fprintf(stderr, "plait: %s\n", report.c_str());
  std::fflush(stderr);
  // The run's folder may be what hangs: nobody waits for this thread.
  std::thread([report] { LogFailure(report); }).detach();
  // The launcher ends the job with this process: other hosts' reports come first.
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  _exit(static_cast<int>(ExitCode::kTryAgain));
}

void CollectiveWatchdog::Watch(const std::stop_token& stop) {
  const auto period = std::chrono::duration<double>(std::clamp(timeout_seconds_ / 8, 0.01, 0.25));
  int64_t wait = 0;    // the one being watched, by its beginning
  double watched = 0;  // seconds of it
  Clock::time_point last = Clock::now();
  std::unique_lock lock(mutex_);
  while (!stopped_.wait_for(lock, stop, period, [&] { return stop.stop_requested(); })) {
    const Clock::time_point now = Clock::now();
    const double passed = std::min(SecondsBetween(last, now), kMostPeriods * period.count());
    last = now;
    const int64_t since = ledger_.waiting_since();
    watched = since != 0 && since == wait ? watched + passed : 0;
    wait = since;
    const double timeout = timeout_seconds_ * ledger_.patience();
    if (watched < timeout) continue;
    const std::vector<ObservedRank> ranks = Observe(ledger_);
    if (watched < timeout + GraceSeconds(ranks, ledger_.rank())) continue;
    ledger_.SetReports();
    on_timeout_(
        absl::StrFormat("rank %d has waited for %.1f s, which is more than the %g s that "
                        "trainer.collective_timeout_seconds allows here\n%s",
                        ledger_.rank(), watched, timeout, Report(ranks)));
    return;
  }
}

}  // namespace plait
