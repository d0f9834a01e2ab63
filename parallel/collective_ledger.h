// CollectiveLedger: what every rank's last collective is, so that a run that stands still says why.
// Each rank has one slot, written by it alone, in memory that all ranks of its host can read. The
// watchdog (collective_watchdog.h) reads the slots when a rank has waited too long, and
// collective_diagnosis.h says who is missing. In check mode (recipe field debug.check_collectives)
// the ranks of a communicator also compare their calls before data moves: operation, place in the
// order, dtype and sizes.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace plait {

enum class CollectiveOperation : int32_t {
  kNone,
  kAllGather,
  kReduceScatter,
  kAllReduceSum,
  kAllReduceMax,
  kBroadcast,
  kAllToAll,
  kSend,
  kReceive,
  kBarrier,
  kSplit,
  kAllocateShared,
  kSharedWait,  // for a flag in shared memory
};

std::string_view Name(CollectiveOperation operation);

// One call, as a plain value that can be sent and compared. Texts are cut to their arrays.
struct CollectiveCall {
  CollectiveOperation operation = CollectiveOperation::kNone;
  int32_t dtype = -1;  // of DType; -1: none
  // Of the call among the collectives of its communicator, from 1; of a send or receive, the
  // collectives before it.
  int64_t sequence = 0;
  int64_t count = 0;   // elements that all ranks must agree on; 0: none
  int32_t peer = -1;   // root or peer; -1: none
  uint64_t group = 0;  // identity of the communicator, the same on all of its ranks
  std::array<char, 20> communicator{};
  std::array<char, 96> site{};  // "file:line"

  // "all-reduce sum f32[128], call 7 of world, at trainer/training_step.cc:34", or "receive
  // f32[128] from rank 1 of pipeline, at ...", a rank of that communicator. Sizes that ranks need
  // not agree on are not told.
  std::string ToString() const;
  // Whether the ranks of one communicator may make these calls together. Call sites may differ.
  bool Matches(const CollectiveCall& other) const;
};

// What a rank is doing, as another rank of its host sees it.
struct RankActivity {
  // A communicator that the rank belongs to.
  struct Membership {
    uint64_t group = 0;    // as in CollectiveCall
    int32_t rank = 0;      // in the communicator
    int64_t sequence = 0;  // of the rank's last collective there
  };

  int64_t rank = 0;  // in the job
  int64_t process = 0;
  int64_t calls = 0;            // entered so far
  double waiting_seconds = -1;  // negative: not waiting
  bool on_device = false;       // it is its device that waits, not its host
  bool reports = false;         // its watchdog has begun to report
  CollectiveCall call;          // the last one; of a device that waits, the one it waits in
  std::vector<Membership> memberships;
};

// Memory of one rank's slot: written by its rank, read by any.
struct alignas(64) LedgerSlot {
  static constexpr int kMemberships = 24;  // more than the communicators of a DeviceMesh
  static constexpr int kCallWords = sizeof(CollectiveCall) / sizeof(uint64_t);
  struct Membership {
    std::atomic<uint64_t> group;  // 0: free
    std::atomic<int32_t> rank;
    std::atomic<int64_t> sequence;
  };
  // Written between two odd-even steps of `version`, so that a reader sees all of one call.
  struct Call {
    std::atomic<uint64_t> version;  // odd while `words` are being written
    std::array<std::atomic<uint64_t>, kCallWords> words;
  };

  std::atomic<int64_t> calls;          // entered so far, by this rank
  std::atomic<int64_t> waiting_since;  // nanoseconds of the host's monotonic clock; 0: not waiting
  std::atomic<int64_t> bytes_moved;    // of payload, see parallel/communication_plan.h
  std::atomic<int64_t> process;        // id of its process; 0: not started
  std::atomic<int64_t> rank;           // in the job
  std::atomic<int64_t> reports;        // 1: its watchdog has begun to report
  // As waiting_since, of the device: since when it has not come further in `device_call`.
  std::atomic<int64_t> device_waiting_since;
  Call call;
  Call device_call;
  std::array<Membership, kMemberships> memberships;
};
static_assert(sizeof(CollectiveCall) % sizeof(uint64_t) == 0);

class CollectiveLedger {
 public:
  // slots: of the ranks of this host, in zeroed memory shared by them; `own` is this rank's index
  // in it, `world_rank` its rank in the job.
  CollectiveLedger(std::shared_ptr<LedgerSlot> slots, int num_slots, int own, int world_rank);

  // A ledger of one rank that nobody else reads.
  static std::shared_ptr<CollectiveLedger> Single();

  void set_check(bool check) { check_ = check; }
  bool check() const { return check_; }

  // A communicator that this rank belongs to, in which it has `rank`. Returns its place for Enter
  // and Leave; -1 where all are taken: reports know less about that communicator.
  int Join(uint64_t group, int rank);
  void Leave(int place);

  void Enter(int place, const CollectiveCall& call);
  // The call entered last; for the thread that enters them.
  const CollectiveCall& last_call() const { return last_call_; }
  void AddBytes(int64_t bytes) { slot().bytes_moved.fetch_add(bytes, std::memory_order_relaxed); }
  int64_t bytes_moved() const { return slot().bytes_moved.load(std::memory_order_relaxed); }
  // Nanoseconds that this rank has spent waiting for others.
  int64_t waited_nanoseconds() const { return waited_; }

  // The host waits for other ranks as long as this lives; nested ones count once.
  class Waiting {
   public:
    explicit Waiting(CollectiveLedger& ledger);
    ~Waiting();
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;

   private:
    CollectiveLedger& ledger_;
    int64_t began_ = 0;  // 0: an outer one counts
  };

  // This rank's device has not come further in `call` since then, in nanoseconds of the host's
  // monotonic clock. For the one thread that looks after the device, as EndDeviceWait.
  void SetDeviceWait(int64_t since, const CollectiveCall& call);
  void EndDeviceWait() { slot().device_waiting_since.store(0, std::memory_order_release); }
  static int64_t MonotonicNanoseconds();

  // In the job.
  int rank() const { return static_cast<int>(slot().rank.load(std::memory_order_relaxed)); }

  // As long as this lives, the watchdog lets this rank wait `factor` times as long: ranks read or
  // write files meanwhile, some slower than others.
  class Patience {
   public:
    explicit Patience(CollectiveLedger& ledger, int factor = 20) : ledger_(ledger) {
      ledger_.patience_ = factor;
    }
    ~Patience() { ledger_.patience_ = 1; }
    Patience(const Patience&) = delete;
    Patience& operator=(const Patience&) = delete;

   private:
    CollectiveLedger& ledger_;
  };
  int patience() const { return patience_; }

  // When this rank, its host or its device, began to wait, nanoseconds of the host's monotonic
  // clock; 0: it is not waiting.
  int64_t waiting_since() const;
  // Tells the others of the host that this rank's watchdog reports.
  void SetReports() { slot().reports.store(1, std::memory_order_release); }
  // Of the ranks of this host, by rank.
  std::vector<RankActivity> Activities() const;

 private:
  LedgerSlot& slot() { return slots_.get()[own_]; }
  const LedgerSlot& slot() const { return slots_.get()[own_]; }

  std::shared_ptr<LedgerSlot> slots_;
  int num_slots_;
  int own_;
  bool check_ = false;
  std::atomic<int> patience_ = 1;
  int64_t waited_ = 0;
  CollectiveCall last_call_;
};

// Indices of the calls that differ from the most common one; all where none is common to more than
// half of them; none where all match.
std::vector<size_t> DifferingCalls(std::span<const CollectiveCall> calls);

// Ok where all calls match; else Internal, naming the ranks that differ from the most common call
// (all of them where there is none) and what each one called.
absl::Status CompareCalls(std::string_view communicator, std::span<const CollectiveCall> calls);

}  // namespace plait
