// Which rank keeps the others waiting, from what the ranks of a host are doing.
//
// Rank a waits for rank b where a waits in a collective of a communicator that both belong to and b
// has made fewer collectives there (or b is the peer of a's send or receive). Missing are
//   1. ranks whose process is stopped or gone;
//   2. else those that others wait for and that do not wait;
//   3. else those that made another call than most others at the same place in the order;
//   4. else those that wait for each other in different communicators;
//   5. else those that do not wait.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "parallel/collective_ledger.h"

namespace plait {

enum class ProcessState { kRunning, kStopped, kGone };

// Of a process of this host. Stopped: by a signal or a debugger.
ProcessState StateOf(int64_t process);

// A rank's activity and its process's state, looked up by whoever asks.
struct ObservedRank {
  RankActivity activity;
  ProcessState state = ProcessState::kRunning;

  bool Waits() const { return state == ProcessState::kRunning && activity.waiting_seconds >= 0; }
};

// Of all ranks of the host.
std::vector<ObservedRank> Observe(const CollectiveLedger& ledger);

struct Diagnosis {
  std::vector<int64_t> missing;  // ranks in the job, ascending; empty: they are on other hosts
  std::string sentence;          // "missing: rank 1 (stopped by a signal)"
};
Diagnosis Diagnose(std::span<const ObservedRank> ranks);

// One line a rank: its state, how long it has been waiting or that it is not waiting at all, and
// its last call; last, the diagnosis.
std::string Report(std::span<const ObservedRank> ranks);

}  // namespace plait
