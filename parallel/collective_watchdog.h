// CollectiveWatchdog: ends a run that stands still, and says why. A thread looks at this rank's
// ledger a few times a second; when the rank has waited for others longer than the timeout, it
// reports what every rank of the host is doing and who is missing (collective_diagnosis.h), and
// ends the process with exit code 75, upon which the launcher ends the job. Of the waiting ranks of
// a host the lowest one speaks; where it does not, another does a second later.
//
// Time in which the watchdog itself did not run does not count: a job that is suspended as a whole
// and goes on is no job that stands still.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>

#include "parallel/collective_ledger.h"

namespace plait {

class CollectiveWatchdog {
 public:
  // Called on the watchdog's thread, once.
  using OnTimeout = std::function<void(const std::string& report)>;

  // Watches until destroyed. The ledger outlives it.
  CollectiveWatchdog(CollectiveLedger& ledger, double timeout_seconds,
                     OnTimeout on_timeout = EndProcess);
  CollectiveWatchdog(const CollectiveWatchdog&) = delete;
  CollectiveWatchdog& operator=(const CollectiveWatchdog&) = delete;

  // Prints the report on stderr and ends the process with exit code 75, without anything that could
  // wait.
  static void EndProcess(const std::string& report);

 private:
  void Watch(const std::stop_token& stop);

  CollectiveLedger& ledger_;
  const double timeout_seconds_;
  const OnTimeout on_timeout_;
  std::mutex mutex_;
  std::condition_variable_any stopped_;
  std::jthread thread_;  // last: it uses the rest
};

}  // namespace plait
