#include "parallel/collective_ledger.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/dtype.h"

namespace plait {
namespace {

// The same clock for every process of the host.
int64_t MonotonicNanoseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{1'000'000'000} * now.tv_sec + now.tv_nsec;
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
  if (dtype >= 0) {
    absl::StrAppend(&text, " ", Name(static_cast<DType>(dtype)), "[", count, "]");
  } else if (count > 0) {
    absl::StrAppend(&text, " [", count, "]");
  }
  if (peer >= 0) absl::StrAppend(&text, " with rank ", peer);
  absl::StrAppend(&text, ", call ", sequence, " of ", communicator.data(), ", at ", site.data());
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

void CollectiveLedger::Enter(const CollectiveCall& call) {
  slot().call = call;
  slot().calls.fetch_add(1, std::memory_order_release);
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

double CollectiveLedger::WaitingSeconds() const {
  const int64_t since = slot().waiting_since.load(std::memory_order_acquire);
  return since == 0 ? 0.0 : static_cast<double>(MonotonicNanoseconds() - since) * 1e-9;
}

std::string CollectiveLedger::Report() const {
  const int64_t now = MonotonicNanoseconds();
  std::vector<std::string> lines;
  std::vector<int64_t> missing;
  // Where all wait, some wait in another call than the others: those that made fewer calls of the
  // same communicator are behind.
  int64_t furthest = 0;
  bool all_wait = true;
  for (int i = 0; i < num_slots_; ++i) {
    const LedgerSlot& other = slots_.get()[i];
    furthest = std::max(furthest, other.calls.load(std::memory_order_acquire));
    all_wait = all_wait && other.waiting_since.load(std::memory_order_acquire) != 0;
  }
  for (int i = 0; i < num_slots_; ++i) {
    const LedgerSlot& other = slots_.get()[i];
    const int64_t rank = other.rank.load(std::memory_order_relaxed);
    const int64_t since = other.waiting_since.load(std::memory_order_acquire);
    const int64_t calls = other.calls.load(std::memory_order_acquire);
    const CollectiveCall call = other.call;
    const std::string state =
        since == 0 ? "not waiting" : absl::StrFormat("waiting for %.1f s", (now - since) * 1e-9);
    lines.push_back(absl::StrFormat("rank %d (process %d): %s; last collective, number %d: %s",
                                    rank, other.process.load(std::memory_order_relaxed), state,
                                    calls, calls == 0 ? "none" : call.ToString()));
    if (all_wait ? calls < furthest : since == 0) missing.push_back(rank);
  }
  lines.push_back(missing.empty() ? "every rank of this host waits in the same place: look at the "
                                    "other hosts' reports"
                                  : absl::StrCat("missing: rank ", absl::StrJoin(missing, ", ")));
  return absl::StrJoin(lines, "\n");
}

absl::Status CompareCalls(std::string_view communicator, std::span<const CollectiveCall> calls) {
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
  if (most == calls.size()) return absl::OkStatus();
  std::vector<std::string> culprits;
  // Without a majority nobody can be called right: all are listed.
  const bool majority = 2 * most > calls.size();
  for (size_t i = 0; i < calls.size(); ++i) {
    if (majority && calls[i].Matches(calls[common])) continue;
    culprits.push_back(absl::StrCat("rank ", i, " calls ", calls[i].ToString()));
  }
  const std::string rest =
      majority ? absl::StrCat("; the others call ", calls[common].ToString()) : std::string();
  return absl::InternalError(
      absl::StrCat("collectives do not match on ", absl::string_view(communicator.data(), communicator.size()),
                   ": ", absl::StrJoin(culprits, "; "), rest));
}

}  // namespace plait
