// NcclSession: one rank's NCCL communicators, and what goes wrong with them. Calls go through it
// one at a time a communicator; a thread of its own, the poller,
//   asks every communicator for errors that came later than its calls;
//   sees which collective the device stands in, for the ledger: the watchdog's timeout counts from
//   the last one that the device finished, and its report names it;
//   after the first failure, whoever found it, aborts all communicators, so that whatever waits
//   for the device goes on. From then on every call fails with the reason.
// A job that has been aborted is a failure, too. A session does not recover: with the same host
// communicator a new one can be made.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/stream.h"
#include "parallel/collective_ledger.h"
#include "parallel/nccl_api.h"

namespace plait {

// One NCCL communicator of this rank.
struct NcclChannel {
  std::string name;                          // for messages
  std::mutex mutex;                          // held during calls
  std::atomic<NcclHandle> handle = nullptr;  // null: not made yet, closed or aborted
  NcclHandle made = nullptr;                 // where NCCL puts a part
};

struct NcclSessionOptions {
  double connect_timeout_seconds = 300;
  double close_timeout_seconds = 5;
  // Called once, by the poller, when it finds an error and has aborted everything: the rank's own
  // thread may wait for something else. Failures that a call returns are the caller's.
  std::function<void(const absl::Status&)> on_error;
  // Why the job has been aborted, or Ok; thread-safe.
  std::function<absl::Status()> job_status;
};

class NcclSession : public std::enable_shared_from_this<NcclSession> {
 public:
  // NCCL's result of the call on `handle`.
  using Call = std::function<NcclResult(NcclApi& nccl, NcclHandle handle)>;

  NcclSession(std::shared_ptr<NcclApi> nccl, std::shared_ptr<DeviceRuntime> runtime,
              std::shared_ptr<CollectiveLedger> ledger, NcclSessionOptions options);
  // Aborts what is still open.
  ~NcclSession();
  NcclSession(const NcclSession&) = delete;
  NcclSession& operator=(const NcclSession&) = delete;

  DeviceRuntime& runtime() const { return *runtime_; }

  // Collective over the ranks that have the id. DeadlineExceeded where they do not come in time.
  absl::StatusOr<std::shared_ptr<NcclChannel>> Connect(const NcclUniqueId& id, int ranks, int rank,
                                                       const std::string& name);
  // Collective over the parent's ranks. Null for NcclApi::kNoColor.
  absl::StatusOr<std::shared_ptr<NcclChannel>> Split(NcclChannel& parent, int color, int key,
                                                     const std::string& name);
  // Once its work is done or the time to close it is over, which one communicator alone may take.
  void Close(NcclChannel& channel);

  // Makes the call and waits until its work is on its stream: at once, but for a connection that
  // NCCL makes on first use.
  absl::Status Submit(NcclChannel& channel, std::string_view what, const Call& call);
  // Completion of what the stream was given so far, the last of it `call`.
  absl::StatusOr<Event> Record(StreamHandle stream, const CollectiveCall& call);

  // The first reason stands.
  void Fail(absl::Status reason);
  // Ok, or why no call is possible any more.
  absl::Status status() const;
  // Until the poller has aborted everything after a failure, at most this long.
  void WaitUntilAborted(double seconds);

 private:
  // A collective that the device has been given.
  struct UnderWay {
    std::shared_ptr<PendingWork> work;
    CollectiveCall call;
    int64_t since;  // given, of the monotonic clock
  };

  // Polls until the communicator's last call is no longer in progress. deadline_seconds < 0: none.
  absl::Status Await(NcclChannel& channel, std::string_view what, NcclResult result,
                     double deadline_seconds);
  absl::Status Failed(const NcclChannel& channel, std::string_view what, NcclResult result,
                      NcclHandle handle);
  std::shared_ptr<NcclChannel> AddChannel(const std::string& name);
  std::vector<std::shared_ptr<NcclChannel>> Channels() const;

  void Poll(const std::stop_token& stop);
  // Why the session should fail, of what its communicators say.
  absl::Status LookForErrors();
  void LookAtDevice();
  void AbortChannels();

  const std::shared_ptr<NcclApi> nccl_;
  const std::shared_ptr<DeviceRuntime> runtime_;
  const std::shared_ptr<CollectiveLedger> ledger_;
  const NcclSessionOptions options_;

  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  absl::Status status_;
  bool aborted_ = false;
  bool closes_late_ = false;  // the rank's own thread's
  std::vector<std::shared_ptr<NcclChannel>> channels_;
  std::deque<UnderWay> under_way_;  // oldest first
  int64_t last_finish_ = 0;         // the poller's: when it saw a collective finished
  std::jthread poller_;             // last: it uses the rest
};

}  // namespace plait
