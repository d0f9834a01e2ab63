#include "base/stream.h"

#include <cstring>

namespace plait {
namespace {

// What could not be started: its error for whoever waits.
class FailedWork : public PendingWork {
 public:
  explicit FailedWork(absl::Status status) : status_(std::move(status)) {}
  absl::Status Wait() override { return status_; }
  bool Test() override { return true; }

 private:
  absl::Status status_;
};

}  // namespace

Event Stream::Record() {
  if (runtime_ != nullptr) {
    auto work = runtime_->Record(handle_);
    if (!work.ok()) return Event(std::make_shared<FailedWork>(work.status()));
    return Event(*std::move(work));
  }
  return last_ == nullptr ? Event() : Event(last_);
}

absl::Status Stream::Wait(const Event& event) {
  const std::shared_ptr<PendingWork>& work = event.work();
  if (work != nullptr && runtime_ != nullptr) {
    if (PendingWork* on_device = work->DeviceWork()) return runtime_->WaitFor(handle_, *on_device);
  }
  return event.Synchronize();
}

absl::Status Stream::Synchronize() {
  if (runtime_ != nullptr) return runtime_->Synchronize(handle_);
  return Record().Synchronize();
}

absl::Status Stream::Copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0 || to == from) return absl::OkStatus();
  if (runtime_ != nullptr) return runtime_->Copy(to, from, bytes, handle_);
  std::memmove(to, from, bytes);
  return absl::OkStatus();
}

}  // namespace plait
