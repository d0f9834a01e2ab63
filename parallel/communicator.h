// Communicator: collectives among the ranks of one mesh axis (or product of axes). Every operation
// takes the stream it is ordered on and returns the event of its completion; buffers may be reused
// only after that event. All ranks call the same operations in the same order with matching sizes
// and dtypes. Reductions have one fixed order of ranks, so that a run repeats itself bit for bit.
//
// Public operations check sizes, enter the call in the rank's ledger (collective_ledger.h) and,
// where the ledger is asked to, compare it with the calls of the other ranks before anything moves.
// Implementations: one rank, threads of one process (local_communicator.h), MPI
// (mpi_communicator.h), and NCCL for the memory of GPUs (nccl_communicator.h).
#pragma once

#include <cstdint>
#include <memory>
#include <source_location>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/stream.h"
#include "base/view.h"
#include "parallel/collective_ledger.h"

namespace plait {

enum class ReduceOperation { kSum, kMax };

class Communicator {
 public:
  using CallSite = std::source_location;

  virtual ~Communicator() { ledger_->Leave(place_); }
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  // "world", "shard": for messages.
  const std::string& name() const { return name_; }
  CollectiveLedger& ledger() const { return *ledger_; }
  // Whether calls on a device's stream move the device's memory.
  virtual bool reaches_device() const { return false; }
  // Most bytes of the device's memory that this rank's communicators of this kind had for
  // themselves at a time: no Execution's allocator counts them.
  virtual int64_t device_bytes_peak() const { return 0; }

  // output = the inputs of all ranks, in rank order. output.size = size() x input.size. The input
  // may be its own place in the output.
  absl::StatusOr<Event> AllGather(Stream& stream, ConstVectorView input, VectorView output,
                                  CallSite site = CallSite::current());
  // output = this rank's part of the element-wise sum. input.size = size() x output.size.
  absl::StatusOr<Event> ReduceScatter(Stream& stream, ConstVectorView input, VectorView output,
                                      CallSite site = CallSite::current());
  // In place; the same bits on every rank.
  absl::StatusOr<Event> AllReduce(Stream& stream, VectorView buffer, ReduceOperation operation,
                                  CallSite site = CallSite::current());
  absl::StatusOr<Event> Broadcast(Stream& stream, VectorView buffer, int root,
                                  CallSite site = CallSite::current());
  // Element counts per peer, in rank order; data packed without gaps. input and output do not
  // overlap.
  absl::StatusOr<Event> AllToAll(Stream& stream, ConstVectorView input,
                                 std::span<const int64_t> input_counts, VectorView output,
                                 std::span<const int64_t> output_counts,
                                 CallSite site = CallSite::current());
  absl::StatusOr<Event> Send(Stream& stream, ConstVectorView buffer, int peer,
                             CallSite site = CallSite::current());
  absl::StatusOr<Event> Receive(Stream& stream, VectorView buffer, int peer,
                                CallSite site = CallSite::current());
  struct Sending {
    ConstVectorView buffer;
    int peer;
  };
  struct Receiving {
    VectorView buffer;
    int peer;
  };
  // As many calls of Send and Receive, set out together. Alone a send may wait for its receive
  // (NCCL's do), so that two ranks that send to each other before they receive stand still: such
  // messages go by one call on each.
  absl::StatusOr<Event> SendAndReceive(Stream& stream, std::span<const Sending> sends,
                                       std::span<const Receiving> receives,
                                       CallSite site = CallSite::current());
  // Waits on the host for every rank.
  absl::Status Barrier(CallSite site = CallSite::current());

  // Collective: the ranks with the same color become one communicator, ordered by key, then rank.
  absl::StatusOr<std::shared_ptr<Communicator>> Split(int color, int key, const std::string& name,
                                                      CallSite site = CallSite::current());
  // Collective: zeroed memory that every rank of this communicator reads and writes. `bytes` must
  // be the same on all. nullptr on every rank where they are not on one host.
  absl::StatusOr<std::shared_ptr<void>> AllocateShared(size_t bytes,
                                                       CallSite site = CallSite::current());
  // Enters a wait for a flag in shared memory into the ledger (shared_window.h).
  void EnterSharedWait(CallSite site);
  // Ends the job on all ranks with this reason and exit code; implementations whose ranks are
  // threads make every later and waiting call fail instead.
  virtual void Abort(std::string_view reason, int exit_code) = 0;
  // Ok, or why the job has been aborted: asked while a rank waits on shared memory.
  virtual absl::Status JobStatus() const { return absl::OkStatus(); }

 protected:
  Communicator(int rank, int size, std::string name, std::shared_ptr<CollectiveLedger> ledger);

  const std::shared_ptr<CollectiveLedger>& shared_ledger() const { return ledger_; }
  // Goes on in the ledger as `other`, which enters no call of its own any more.
  void TakePlaceOf(Communicator& other);

  // Arguments are checked before. Blocking ones return a complete event.
  virtual absl::StatusOr<Event> DoAllGather(Stream& stream, ConstVectorView input,
                                            VectorView output) = 0;
  virtual absl::StatusOr<Event> DoReduceScatter(Stream& stream, ConstVectorView input,
                                                VectorView output) = 0;
  virtual absl::StatusOr<Event> DoAllReduce(Stream& stream, VectorView buffer,
                                            ReduceOperation operation) = 0;
  virtual absl::StatusOr<Event> DoBroadcast(Stream& stream, VectorView buffer, int root) = 0;
  virtual absl::StatusOr<Event> DoAllToAll(Stream& stream, ConstVectorView input,
                                           std::span<const int64_t> input_counts, VectorView output,
                                           std::span<const int64_t> output_counts) = 0;
  virtual absl::StatusOr<Event> DoSend(Stream& stream, ConstVectorView buffer, int peer) = 0;
  virtual absl::StatusOr<Event> DoReceive(Stream& stream, VectorView buffer, int peer) = 0;
  // One by one, where sends do not wait.
  virtual absl::StatusOr<Event> DoSendAndReceive(Stream& stream, std::span<const Sending> sends,
                                                 std::span<const Receiving> receives);
  virtual absl::Status DoBarrier() = 0;
  virtual absl::StatusOr<std::shared_ptr<Communicator>> DoSplit(int color, int key,
                                                                const std::string& name) = 0;
  virtual absl::StatusOr<std::shared_ptr<void>> DoAllocateShared(size_t bytes) = 0;
  // Blocking all-gather of one call's description, beside the data: for the comparison of calls.
  virtual absl::Status ExchangeCalls(const CollectiveCall& own, std::span<CollectiveCall> all) = 0;

 private:
  friend class NcclCommunicator;  // host memory moves by another communicator's operations
  void Enter(CollectiveCall& call);
  absl::Status BeginSend(const Sending& send, CallSite site);
  absl::Status BeginReceive(const Receiving& receive, CallSite site);
  // Enters the call; in check mode compares it with the other ranks'.
  absl::Status Begin(CollectiveCall& call);
  absl::StatusOr<Event> End(absl::StatusOr<Event> event);

  int rank_;
  int size_;
  std::string name_;
  std::shared_ptr<CollectiveLedger> ledger_;
  int64_t calls_ = 0;  // collectives so far
  // Of the world; a part's comes from its parent's, see Split.
  uint64_t group_ = 1;
  int place_ = -1;  // in the ledger; taken by the first call or by Split
};

// The communicator of a run with one rank: every collective is a copy or nothing. Send and Receive
// are InvalidArgument: there is no peer. Abort ends the process.
std::unique_ptr<Communicator> MakeSingleRankCommunicator();

}  // namespace plait
