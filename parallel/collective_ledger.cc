#include "parallel/collective_ledger.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/dtype.h"

namespace plait {
namespace {

// The call, whole however often its rank makes others meanwhile. A rank that stopped while it wrote
// one leaves it torn: then as it is.
CollectiveCall Read(const LedgerSlot::Call& slot) {
  using Clock = std::chrono::steady_clock;
  constexpr int kSpins = 10;
  // By then a writer that lost its core in the middle has had it again, on the busiest of machines.
  constexpr auto kLongest = std::chrono::milliseconds(500);
  std::array<uint64_t, LedgerSlot::kCallWords> words;
  uint64_t last = 0;
  Clock::time_point since;  // that the version is `last`
  for (int attempt = 0;; ++attempt) {
    const uint64_t before = slot.version.load(std::memory_order_acquire);
    for (int i = 0; i < LedgerSlot::kCallWords; ++i) {
      words[i] = slot.words[i].load(std::memory_order_acquire);
    }
    if (before % 2 == 0 && slot.version.load(std::memory_order_relaxed) == before) break;
    if (before != last) {
      attempt = 0;
      last = before;
      since = Clock::now();
    }
    if (attempt < kSpins) continue;
    if (Clock::now() - since > kLongest) break;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  CollectiveCall call;
  std::memcpy(static_cast<void*>(&call), words.data(), sizeof(call));
  call.communicator.back() = '\0';
  call.site.back() = '\0';
  return call;
}

void Write(const CollectiveCall& call, LedgerSlot::Call& slot) {
  // A reader that sees one of the new words also sees the odd version, for each word is released
  // after it. (A fence would do with less, but ThreadSanitizer does not know fences.)
  const uint64_t version = slot.version.load(std::memory_order_relaxed);
  slot.version.store(version + 1, std::memory_order_relaxed);
  std::array<uint64_t, LedgerSlot::kCallWords> words;
  std::memcpy(words.data(), &call, sizeof(call));
  for (int i = 0; i < LedgerSlot::kCallWords; ++i) {
    slot.words[i].store(words[i], std::memory_order_release);
  }
  slot.version.store(version + 2, std::memory_order_release);
}

// Whether a device that waits since then is what keeps its rank: not its host, which began earlier.
bool DeviceWaitsLonger(int64_t device_since, int64_t host_since) {
  return device_since != 0 && (host_since == 0 || device_since <= host_since);
}

}  // namespace

std::string_view Name(CollectiveOperation operation) {
  switch (operation) {
    case CollectiveOperation::kNone:
      return "none";
    case CollectiveOperation::kAllGather:
      return "all-gather";
    case CollectiveOperation::kReduceScatter:
      return "reduce-scatter";
    case CollectiveOperation::kAllReduceSum:
      return "all-reduce sum";
    case CollectiveOperation::kAllReduceMax:
      return "all-reduce max";
    case CollectiveOperation::kBroadcast:
      return "broadcast";
    case CollectiveOperation::kAllToAll:
      return "all-to-all";
    case CollectiveOperation::kSend:
      return "send";
    case CollectiveOperation::kReceive:
      return "receive";
    case CollectiveOperation::kBarrier:
      return "barrier";
    case CollectiveOperation::kSplit:
      return "split";
    case CollectiveOperation::kAllocateShared:
      return "allocate-shared";
    case CollectiveOperation::kSharedWait:
      return "shared-memory wait";
  }
  return "?";
}

std::string CollectiveCall::ToString() const {
  if (operation == CollectiveOperation::kNone) return "no collective";
  std::string text(Name(operation));
  if (dtype >= 0) absl::StrAppend(&text, " ", Name(static_cast<DType>(dtype)));
  if (count > 0) absl::StrAppend(&text, dtype >= 0 ? "[" : " [", count, "]");
  if (operation == CollectiveOperation::kSend || operation == CollectiveOperation::kReceive) {
    const char* direction = operation == CollectiveOperation::kSend ? " to" : " from";
    absl::StrAppend(&text, direction, " rank ", peer);
  } else {
    if (peer >= 0) absl::StrAppend(&text, " with rank ", peer);
    absl::StrAppend(&text, ", call ", sequence);
  }
  absl::StrAppend(&text, " of ", communicator.data(), ", at ", site.data());
  return text;
}

bool CollectiveCall::Matches(const CollectiveCall& other) const {
  return operation == other.operation && dtype == other.dtype && sequence == other.sequence &&
         count == other.count && peer == other.peer;
}

CollectiveLedger::CollectiveLedger(std::shared_ptr<LedgerSlot> slots, int num_slots, int own,
                                   int world_rank)
    : slots_(std::move(slots)), num_slots_(num_slots), own_(own) {
  slot().rank.store(world_rank, std::memory_order_relaxed);
  slot().process.store(getpid(), std::memory_order_release);
}

std::shared_ptr<CollectiveLedger> CollectiveLedger::Single() {
  return std::make_shared<CollectiveLedger>(std::make_shared<LedgerSlot>(), 1, 0, 0);
}

int CollectiveLedger::Join(uint64_t group, int rank) {
  for (int place = 0; place < LedgerSlot::kMemberships; ++place) {
    LedgerSlot::Membership& membership = slot().memberships[place];
    if (membership.group.load(std::memory_order_relaxed) != 0) continue;
    membership.rank.store(rank, std::memory_order_relaxed);
    membership.sequence.store(0, std::memory_order_relaxed);
    membership.group.store(group, std::memory_order_release);
    return place;
  }
  return -1;
}

void CollectiveLedger::Leave(int place) {
  if (place >= 0) slot().memberships[place].group.store(0, std::memory_order_release);
}

void CollectiveLedger::Enter(int place, const CollectiveCall& call) {
  LedgerSlot& own = slot();
  last_call_ = call;
  Write(call, own.call);
  if (place >= 0) {
    own.memberships[place].sequence.store(call.sequence, std::memory_order_release);
  }
  own.calls.fetch_add(1, std::memory_order_release);
}

void CollectiveLedger::SetDeviceWait(int64_t since, const CollectiveCall& call) {
  Write(call, slot().device_call);
  slot().device_waiting_since.store(since, std::memory_order_release);
}

int64_t CollectiveLedger::waiting_since() const {
  const int64_t host = slot().waiting_since.load(std::memory_order_acquire);
  const int64_t device = slot().device_waiting_since.load(std::memory_order_acquire);
  return DeviceWaitsLonger(device, host) ? device : host;
}

// The same clock for every process of the host.
int64_t CollectiveLedger::MonotonicNanoseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{1'000'000'000} * now.tv_sec + now.tv_nsec;
}

CollectiveLedger::Waiting::Waiting(CollectiveLedger& ledger) : ledger_(ledger) {
  if (ledger.slot().waiting_since.load(std::memory_order_relaxed) != 0) return;
  began_ = MonotonicNanoseconds();
  ledger.slot().waiting_since.store(began_, std::memory_order_release);
}

CollectiveLedger::Waiting::~Waiting() {
  if (began_ == 0) return;
  ledger_.waited_ += MonotonicNanoseconds() - began_;
  ledger_.slot().waiting_since.store(0, std::memory_order_release);
}

std::vector<RankActivity> CollectiveLedger::Activities() const {
  const int64_t now = MonotonicNanoseconds();
  std::vector<RankActivity> activities;
  for (int i = 0; i < num_slots_; ++i) {
    const LedgerSlot& other = slots_.get()[i];
    RankActivity activity;
    activity.rank = other.rank.load(std::memory_order_relaxed);
    activity.process = other.process.load(std::memory_order_acquire);
    const int64_t host = other.waiting_since.load(std::memory_order_acquire);
    const int64_t device = other.device_waiting_since.load(std::memory_order_acquire);
    activity.on_device = DeviceWaitsLonger(device, host);
    const int64_t since = activity.on_device ? device : host;
    if (since != 0) activity.waiting_seconds = static_cast<double>(now - since) * 1e-9;
    activity.calls = other.calls.load(std::memory_order_acquire);
    activity.reports = other.reports.load(std::memory_order_acquire) != 0;
    activity.call = Read(activity.on_device ? other.device_call : other.call);
    for (const LedgerSlot::Membership& membership : other.memberships) {
      const uint64_t group = membership.group.load(std::memory_order_acquire);
      if (group == 0) continue;
      activity.memberships.push_back({group, membership.rank.load(std::memory_order_relaxed),
                                      membership.sequence.load(std::memory_order_acquire)});
    }
    activities.push_back(std::move(activity));
  }
  return activities;
}

std::vector<size_t> DifferingCalls(std::span<const CollectiveCall> calls) {
  // The most common call stands for what was meant; the first of equals.
  size_t most = 0;
  size_t common = 0;
  for (size_t i = 0; i < calls.size(); ++i) {
    const auto same = static_cast<size_t>(
        std::count_if(calls.begin(), calls.end(),
                      [&](const CollectiveCall& other) { return other.Matches(calls[i]); }));
    if (same > most) {
      most = same;
      common = i;
    }
  }
  std::vector<size_t> differing;
  if (most == calls.size()) return differing;
  // Without a majority nobody can be called right.
  const bool majority = 2 * most > calls.size();
  for (size_t i = 0; i < calls.size(); ++i) {
    if (!majority || !calls[i].Matches(calls[common])) differing.push_back(i);
  }
  return differing;
}

absl::Status CompareCalls(std::string_view communicator, std::span<const CollectiveCall> calls) {
  const std::vector<size_t> differing = DifferingCalls(calls);
  if (differing.empty()) return absl::OkStatus();
  std::vector<std::string> culprits;
  for (const size_t i : differing) {
    culprits.push_back(absl::StrCat("rank ", i, " calls ", calls[i].ToString()));
  }
  std::string rest;
  for (size_t i = 0; i < calls.size() && rest.empty(); ++i) {
    if (std::find(differing.begin(), differing.end(), i) == differing.end()) {
      rest = absl::StrCat("; the others call ", calls[i].ToString());
    }
  }
  return absl::InternalError(absl::StrCat(
      "collectives do not match on ", absl::string_view(communicator.data(), communicator.size()),
      ": ", absl::StrJoin(culprits, "; "), rest));
}

}  // namespace plait
