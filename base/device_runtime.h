// DeviceRuntime: memory, streams and copies of a device that is not the host. kernels/cuda has the
// CUDA one and, for machines without a GPU, one whose device is emulated (kernels/cuda/emulation).
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace plait {

class PendingWork;

// A stream of the device, as its driver names it; null: the host's inline stream.
using StreamHandle = void*;

enum class StreamPriority { kNormal, kHigh };

class DeviceRuntime {
 public:
  virtual ~DeviceRuntime() = default;

  virtual std::string DeviceName() const = 0;
  // Of the device, in all.
  virtual size_t MemoryBytes() const = 0;
  // The calling thread's work is for this device from now on.
  virtual absl::Status MakeCurrent() = 0;

  // Device memory, 256-byte aligned; null where there is none left.
  virtual void* Allocate(size_t bytes) = 0;
  // The host waits for the device first.
  virtual void Free(void* block) = 0;
  // Of a block that the caching allocator holds, the first `bytes` are in use from here on, or none
  // (0): for a device that watches over its memory.
  virtual void Use(void* /*block*/, size_t /*bytes*/) {}
  // Whether a block may be used in parts of the caller's; not by a device that watches over each.
  virtual bool AllowsParts() const { return true; }
  // Host memory that copies without a stop on the way, and that kernels may read; null where there
  // is none left.
  virtual void* AllocatePinned(size_t bytes) = 0;
  virtual void FreePinned(void* block) = 0;

  // Streams live as long as the runtime.
  virtual absl::StatusOr<StreamHandle> CreateStream(StreamPriority priority) = 0;
  // Between host and device in any direction, or within the device, in the order of the stream.
  // Host memory that is not pinned may make the host wait.
  virtual absl::Status Copy(void* to, const void* from, size_t bytes, StreamHandle stream) = 0;
  virtual absl::Status FillZero(void* to, size_t bytes, StreamHandle stream) = 0;
  // Completion of what the stream was given so far.
  virtual absl::StatusOr<std::shared_ptr<PendingWork>> Record(StreamHandle stream) = 0;
  // Later work of the stream starts after `work`, which Record gave; the host does not wait.
  virtual absl::Status WaitFor(StreamHandle stream, PendingWork& work) = 0;
  // As Record, with the device's time at that point.
  virtual absl::StatusOr<std::shared_ptr<PendingWork>> RecordTime(StreamHandle stream) = 0;
  // From `begin` to `end`, which RecordTime gave; the host waits for `end`.
  virtual absl::StatusOr<double> SecondsBetween(PendingWork& begin, PendingWork& end) = 0;
  // The host waits for all work of the stream. Errors of that work surface here.
  virtual absl::Status Synchronize(StreamHandle stream) = 0;
};

}  // namespace plait
