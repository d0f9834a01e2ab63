// Stream and Event. On the CPU a stream runs its work inline, in call order; what goes on beside it
// (a message under way) is PendingWork, and an event stands for its completion. A device's stream
// is its driver's. Streams are ordered by Wait alone; the host does not wait inside a step.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/device_runtime.h"

namespace plait {

// Something that goes on beside the host. Wait and Test may be called again after completion.
class PendingWork {
 public:
  virtual ~PendingWork() = default;
  // Blocks the host until done.
  virtual absl::Status Wait() = 0;
  // Moves the work on without blocking; true when it is done.
  virtual bool Test() = 0;
  // What a stream of the device waits for in the host's stead; null: the host must wait.
  virtual PendingWork* DeviceWork() { return nullptr; }
};

class Event {
 public:
  Event() = default;  // complete
  explicit Event(std::shared_ptr<PendingWork> work) : work_(std::move(work)) {}

  // Blocks the host until the work before the event is done; its error where it failed.
  absl::Status Synchronize() const { return work_ == nullptr ? absl::OkStatus() : work_->Wait(); }

  const std::shared_ptr<PendingWork>& work() const { return work_; }

 private:
  std::shared_ptr<PendingWork> work_;
};

class Stream {
 public:
  // The host's inline stream.
  Stream() = default;
  Stream(std::shared_ptr<DeviceRuntime> runtime, StreamHandle handle)
      : runtime_(std::move(runtime)), handle_(handle) {}

  // What kernels are launched on; null on the host.
  StreamHandle handle() const { return handle_; }

  // Completion of everything given to this stream so far. An error to record is the event's.
  Event Record();
  // Later work on this stream starts after `event`. An inline stream waits here, as does a device's
  // for what is not on a device.
  absl::Status Wait(const Event& event);
  // The host waits for everything given to this stream so far.
  absl::Status Synchronize();
  // Within this stream's memory, in its order; from and to may overlap on the host alone.
  absl::Status Copy(void* to, const void* from, size_t bytes);

  // Work that was started on this stream and is not done yet.
  Event Launch(std::shared_ptr<PendingWork> work) {
    last_ = work;
    pending_.push_back(std::move(work));
    return Event(last_);
  }
  // Moves pending work on.
  void Poll() {
    if (pending_.empty()) return;
    std::erase_if(pending_, [](const std::shared_ptr<PendingWork>& work) { return work->Test(); });
    if (pending_.empty()) last_ = nullptr;
  }

 private:
  std::shared_ptr<DeviceRuntime> runtime_;
  StreamHandle handle_ = nullptr;
  std::vector<std::shared_ptr<PendingWork>> pending_;  // in the order of their start
  std::shared_ptr<PendingWork> last_;
};

}  // namespace plait
