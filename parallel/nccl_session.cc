#include "parallel/nccl_session.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace plait {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPollPeriod = std::chrono::milliseconds(20);
// How long an abort waits for a call that does not return.
constexpr auto kCallGrace = std::chrono::seconds(2);

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Between two looks at a communicator that is busy: short at first.
class Pause {
 public:
  void operator()() {
    if (++looks_ < 200) return std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::microseconds(looks_ < 1000 ? 50 : 1000));
  }

 private:
  int looks_ = 0;
};

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

absl::StatusCode CodeOf(NcclResult result) {
  switch (result) {
    case NcclResult::kUnhandledCudaError:
    case NcclResult::kSystemError:
    case NcclResult::kRemoteError:
      return absl::StatusCode::kUnavailable;
    default:
      return absl::StatusCode::kInternal;
  }
}

// A collective's completion on the device. An abort completes it, too: then it has failed. To the
// ledger the device waits, not the host: it may come further meanwhile.
class NcclWork final : public PendingWork {
 public:
  NcclWork(std::shared_ptr<PendingWork> device, std::shared_ptr<NcclSession> session)
      : device_(std::move(device)), session_(std::move(session)) {}

  absl::Status Wait() override {
    PLAIT_RETURN_IF_ERROR(device_->Wait());
    return session_->status();
  }
  bool Test() override { return device_->Test(); }
  PendingWork* DeviceWork() override { return device_->DeviceWork(); }

 private:
  std::shared_ptr<PendingWork> device_;
  std::shared_ptr<NcclSession> session_;
};

}  // namespace

NcclSession::NcclSession(std::shared_ptr<NcclApi> nccl, std::shared_ptr<DeviceRuntime> runtime,
                         std::shared_ptr<CollectiveLedger> ledger, NcclSessionOptions options)
    : nccl_(std::move(nccl)),
      runtime_(std::move(runtime)),
      ledger_(std::move(ledger)),
      options_(std::move(options)),
      poller_([this](const std::stop_token& stop) { Poll(stop); }) {}

NcclSession::~NcclSession() {
  poller_.request_stop();
  poller_.join();
  AbortChannels();
  ledger_->EndDeviceWait();
}

absl::StatusOr<std::shared_ptr<NcclChannel>> NcclSession::Connect(const NcclUniqueId& id, int ranks,
                                                                  int rank,
                                                                  const std::string& name) {
  PLAIT_RETURN_IF_ERROR(status());
  const std::shared_ptr<NcclChannel> channel = AddChannel(name);
  NcclHandle handle = nullptr;
  const NcclResult result = nccl_->InitRank(id, ranks, rank, name, handle);
  if (handle == nullptr) return Failed(*channel, "connecting", result, handle);
  channel->handle = handle;
  PLAIT_RETURN_IF_ERROR(Await(*channel, "connecting", result, options_.connect_timeout_seconds));
  return channel;
}

absl::StatusOr<std::shared_ptr<NcclChannel>> NcclSession::Split(NcclChannel& parent, int color,
                                                                int key, const std::string& name) {
  PLAIT_RETURN_IF_ERROR(status());
  const std::shared_ptr<NcclChannel> channel = AddChannel(name);
  NcclResult result = NcclResult::kSuccess;
  {
    const std::lock_guard lock(parent.mutex);
    if (parent.handle == nullptr) return status();
    result = nccl_->Split(parent.handle, color, key, name, channel->made);
  }
  const std::string what = absl::StrCat("making ", name, " of it");
  PLAIT_RETURN_IF_ERROR(Await(parent, what, result, options_.connect_timeout_seconds));
  if (color == NcclApi::kNoColor) return nullptr;
  channel->handle = channel->made;
  PLAIT_RETURN_IF_ERROR(
      Await(*channel, "connecting", NcclResult::kSuccess, options_.connect_timeout_seconds));
  return channel;
}

void NcclSession::Close(NcclChannel& channel) {
  NcclHandle handle = nullptr;
  {
    const std::lock_guard lock(channel.mutex);
    handle = channel.handle.exchange(nullptr);
  }
  if (handle != nullptr) {
    const Clock::time_point begin = Clock::now();
    const bool in_order = status().ok() && !closes_late_;
    NcclResult state = in_order ? nccl_->Finalize(handle) : NcclResult::kInternalError;
    Pause pause;
    while (!IsError(state) && (state = nccl_->State(handle)) == NcclResult::kInProgress) {
      closes_late_ = SecondsSince(begin) > options_.close_timeout_seconds;
      if (closes_late_ || !status().ok()) break;
      pause();
    }
    if (state == NcclResult::kSuccess) {
      nccl_->Destroy(handle);
    } else {
      nccl_->Abort(handle);
    }
  }
  const std::lock_guard lock(mutex_);
  std::erase_if(channels_, [&](const auto& other) { return other.get() == &channel; });
}

absl::Status NcclSession::Submit(NcclChannel& channel, std::string_view what, const Call& call) {
  PLAIT_RETURN_IF_ERROR(status());
  NcclResult result = NcclResult::kSuccess;
  {
    const std::lock_guard lock(channel.mutex);
    const NcclHandle handle = channel.handle;
    if (handle == nullptr) return status();
    result = call(*nccl_, handle);
  }
  return Await(channel, what, result, /*deadline_seconds=*/-1);
}

absl::Status NcclSession::Await(NcclChannel& channel, std::string_view what, NcclResult result,
                                double deadline_seconds) {
  const Clock::time_point begin = Clock::now();
  Pause pause;
  while (true) {
    {
      const std::lock_guard lock(channel.mutex);
      const NcclHandle handle = channel.handle;
      if (handle == nullptr) return status();
      if (!IsError(result)) result = nccl_->State(handle);
      if (IsError(result)) return Failed(channel, what, result, handle);
    }
    if (result == NcclResult::kSuccess) return status();
    PLAIT_RETURN_IF_ERROR(status());
    if (deadline_seconds >= 0 && SecondsSince(begin) > deadline_seconds) {
      const absl::Status late = absl::DeadlineExceededError(absl::StrFormat(
          "NCCL: %s: %s took longer than %g s", channel.name, View(what), deadline_seconds));
      Fail(late);
      return late;
    }
    pause();
  }
}

absl::Status NcclSession::Failed(const NcclChannel& channel, std::string_view what,
                                 NcclResult result, NcclHandle handle) {
  Fail(absl::Status(CodeOf(result), absl::StrCat("NCCL: ", channel.name, ": ", View(what), ": ",
                                                 nccl_->Describe(result, handle))));
  return status();
}

absl::StatusOr<Event> NcclSession::Record(StreamHandle stream, const CollectiveCall& call) {
  PLAIT_ASSIGN_OR_RETURN(std::shared_ptr<PendingWork> work, runtime_->Record(stream));
  {
    const std::lock_guard lock(mutex_);
    PLAIT_RETURN_IF_ERROR(status_);
    under_way_.push_back({work, call, CollectiveLedger::MonotonicNanoseconds()});
  }
  return Event(std::make_shared<NcclWork>(std::move(work), shared_from_this()));
}

void NcclSession::Fail(absl::Status reason) {
  {
    const std::lock_guard lock(mutex_);
    if (!status_.ok()) return;
    status_ = std::move(reason);
  }
  changed_.notify_all();
}

absl::Status NcclSession::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

void NcclSession::WaitUntilAborted(double seconds) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return aborted_; });
}

std::shared_ptr<NcclChannel> NcclSession::AddChannel(const std::string& name) {
  auto channel = std::make_shared<NcclChannel>();
  channel->name = name;
  const std::lock_guard lock(mutex_);
  channels_.push_back(channel);
  return channel;
}

std::vector<std::shared_ptr<NcclChannel>> NcclSession::Channels() const {
  const std::lock_guard lock(mutex_);
  return channels_;
}

void NcclSession::Poll(const std::stop_token& stop) {
  if (const absl::Status current = runtime_->MakeCurrent(); !current.ok()) Fail(current);
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait_for(lock, stop, kPollPeriod, [&] { return !status_.ok() && !aborted_; });
    if (stop.stop_requested()) return;
    lock.unlock();
    absl::Status error;  // found here: once, for nobody looks after a failure
    if (status().ok()) {
      error = LookForErrors();
      if (error.ok()) LookAtDevice();
      const absl::Status reason = error.ok() ? options_.job_status() : error;
      if (!reason.ok()) Fail(reason);
    }
    const bool failed = !status().ok();
    if (failed) {
      // Again and again: a communicator may have come into being meanwhile.
      AbortChannels();
      ledger_->EndDeviceWait();
    }
    lock.lock();
    if (failed && !aborted_) {
      aborted_ = true;
      under_way_.clear();
      changed_.notify_all();
    }
    if (!error.ok() && options_.on_error) {
      lock.unlock();
      options_.on_error(error);
      lock.lock();
    }
  }
}

absl::Status NcclSession::LookForErrors() {
  for (const std::shared_ptr<NcclChannel>& channel : Channels()) {
    const std::unique_lock lock(channel->mutex, std::try_to_lock);
    if (!lock.owns_lock()) continue;  // a call is being made
    const NcclHandle handle = channel->handle;
    if (handle == nullptr) continue;
    const NcclResult state = nccl_->State(handle);
    if (!IsError(state)) continue;
    return absl::Status(
        CodeOf(state), absl::StrCat("NCCL: ", channel->name, ": ", nccl_->Describe(state, handle)));
  }
  return absl::OkStatus();
}

void NcclSession::LookAtDevice() {
  while (true) {
    UnderWay oldest;
    {
      const std::lock_guard lock(mutex_);
      if (under_way_.empty()) break;
      oldest = under_way_.front();
    }
    if (!oldest.work->Test()) {
      return ledger_->SetDeviceWait(std::max(oldest.since, last_finish_), oldest.call);
    }
    last_finish_ = CollectiveLedger::MonotonicNanoseconds();
    const std::lock_guard lock(mutex_);
    under_way_.pop_front();
  }
  ledger_->EndDeviceWait();
}

void NcclSession::AbortChannels() {
  for (const std::shared_ptr<NcclChannel>& channel : Channels()) {
    NcclHandle handle = nullptr;
    {
      // NCCL allows an abort beside a call, where that does not return.
      const Clock::time_point begin = Clock::now();
      std::unique_lock lock(channel->mutex, std::try_to_lock);
      while (!lock.owns_lock() && Clock::now() - begin < kCallGrace) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        lock.try_lock();
      }
      handle = channel->handle.exchange(nullptr);
    }
    if (handle != nullptr) nccl_->Abort(handle);
  }
}

}  // namespace plait
