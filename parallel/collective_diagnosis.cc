#include "parallel/collective_diagnosis.h"

#include <algorithm>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace plait {
namespace {

bool IsPairs(const CollectiveCall& call) {
  return call.operation == CollectiveOperation::kSend ||
         call.operation == CollectiveOperation::kReceive;
}

const RankActivity::Membership* Find(const RankActivity& activity, uint64_t group) {
  for (const RankActivity::Membership& membership : activity.memberships) {
    if (membership.group == group) return &membership;
  }
  return nullptr;
}

// Whether a, which waits, waits for b to come.
bool WaitsFor(const ObservedRank& a, const ObservedRank& b) {
  const CollectiveCall& call = a.activity.call;
  const RankActivity::Membership* other = Find(b.activity, call.group);
  if (other == nullptr) return b.activity.calls == 0;
  if (IsPairs(call)) return other->rank == call.peer;
  return other->sequence < call.sequence;
}

// Ranks that wait at the same place of the same communicator, but in another call than most.
std::vector<size_t> Mismatched(std::span<const ObservedRank> ranks) {
  for (const ObservedRank& first : ranks) {
    if (!first.Waits() || IsPairs(first.activity.call)) continue;
    std::vector<size_t> together;
    std::vector<CollectiveCall> calls;
    for (size_t i = 0; i < ranks.size(); ++i) {
      const CollectiveCall& call = ranks[i].activity.call;
      if (!ranks[i].Waits() || IsPairs(call) || call.group != first.activity.call.group ||
          call.sequence != first.activity.call.sequence) {
        continue;
      }
      together.push_back(i);
      calls.push_back(call);
    }
    std::vector<size_t> differing = DifferingCalls(calls);
    if (differing.empty()) continue;
    for (size_t& index : differing) index = together[index];
    return differing;
  }
  return {};
}

Diagnosis Named(std::string_view what, std::span<const ObservedRank> ranks,
                std::span<const size_t> indices) {
  Diagnosis diagnosis;
  std::vector<std::string> names;
  for (const size_t i : indices) {
    const ObservedRank& rank = ranks[i];
    diagnosis.missing.push_back(rank.activity.rank);
    const char* why = rank.state == ProcessState::kStopped ? " (its process is stopped)"
                      : rank.state == ProcessState::kGone  ? " (its process is gone)"
                                                           : "";
    names.push_back(absl::StrCat(rank.activity.rank, why));
  }
  std::sort(diagnosis.missing.begin(), diagnosis.missing.end());
  diagnosis.sentence = absl::StrCat(absl::string_view(what.data(), what.size()), ": rank ",
                                    absl::StrJoin(names, ", "));
  return diagnosis;
}

std::string Line(const ObservedRank& rank) {
  const RankActivity& activity = rank.activity;
  if (activity.process == 0) return absl::StrCat("rank ", activity.rank, ": not started");
  const char* process = rank.state == ProcessState::kStopped ? ", stopped"
                        : rank.state == ProcessState::kGone  ? ", gone"
                                                             : "";
  const std::string waits = rank.Waits()
                                ? absl::StrFormat("waiting for %.1f s%s", activity.waiting_seconds,
                                                  activity.on_device ? " on its device" : "")
                                : std::string("not waiting");
  return absl::StrFormat("rank %d (process %d%s): %s; %s: %s", activity.rank, activity.process,
                         process, waits, activity.on_device ? "in" : "last collective",
                         activity.calls == 0 ? "none" : activity.call.ToString());
}

}  // namespace

ProcessState StateOf(int64_t process) {
  // "PID (name) STATE ...", where the name may hold anything.
  std::ifstream file(absl::StrCat("/proc/", process, "/stat"));
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const size_t end = text.rfind(')');
  if (end == std::string::npos || end + 2 >= text.size()) return ProcessState::kGone;
  switch (text[end + 2]) {
    case 'T':
    case 't':
      return ProcessState::kStopped;
    case 'Z':
    case 'X':
      return ProcessState::kGone;
    default:
      return ProcessState::kRunning;
  }
}

std::vector<ObservedRank> Observe(const CollectiveLedger& ledger) {
  std::vector<ObservedRank> ranks;
  for (RankActivity& activity : ledger.Activities()) {
    const ProcessState state =
        activity.process == 0 ? ProcessState::kRunning : StateOf(activity.process);
    ranks.push_back({std::move(activity), state});
  }
  return ranks;
}

Diagnosis Diagnose(std::span<const ObservedRank> ranks) {
  const size_t n = ranks.size();
  std::vector<size_t> dead, awaited, entangled, busy;
  bool others_outside = false;  // somebody waits for a rank that waits for none of this host
  std::vector<bool> waits_for_somebody(n), somebody_waits_for(n);
  for (size_t a = 0; a < n; ++a) {
    if (ranks[a].state != ProcessState::kRunning) dead.push_back(a);
    if (!ranks[a].Waits()) continue;
    for (size_t b = 0; b < n; ++b) {
      if (a == b || !WaitsFor(ranks[a], ranks[b])) continue;
      waits_for_somebody[a] = true;
      somebody_waits_for[b] = true;
    }
  }
  if (!dead.empty()) return Named("missing", ranks, dead);
  for (size_t i = 0; i < n; ++i) {
    if (!ranks[i].Waits()) busy.push_back(i);
    if (!somebody_waits_for[i]) continue;
    if (!ranks[i].Waits()) awaited.push_back(i);
    if (waits_for_somebody[i]) entangled.push_back(i);
    others_outside = others_outside || (ranks[i].Waits() && !waits_for_somebody[i]);
  }
  if (!awaited.empty()) return Named("missing", ranks, awaited);
  const std::vector<size_t> mismatched = Mismatched(ranks);
  if (!mismatched.empty()) return Named("in another collective than the rest", ranks, mismatched);
  if (!entangled.empty() && !others_outside) {
    return Named("waiting for each other", ranks, entangled);
  }
  // They made the same calls; one that goes on without waiting has not moved its message.
  if (!busy.empty()) return Named("missing", ranks, busy);
  return {{}, "missing: no rank of this host; look at the other hosts' reports"};
}

std::string Report(std::span<const ObservedRank> ranks) {
  std::vector<std::string> lines;
  for (const ObservedRank& rank : ranks) lines.push_back(Line(rank));
  lines.push_back(Diagnose(ranks).sentence);
  return absl::StrJoin(lines, "\n");
}

}  // namespace plait
