// The emulated device: its streams are the host's, in call order.
#include "kernels/cuda/runtime.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/stream.h"
#include "kernels/cuda/emulation/device_memory.h"

namespace plait {
namespace emulation {
namespace {

// All streams run inline, so everything before an event is done.
class DoneWork : public PendingWork {
 public:
  absl::Status Wait() override { return absl::OkStatus(); }
  bool Test() override { return true; }
  PendingWork* DeviceWork() override { return this; }
};

// Carries the host's clock, by which the emulated device runs.
class TimedWork : public DoneWork {
 public:
  using Clock = std::chrono::steady_clock;
  const Clock::time_point time = Clock::now();
};

class EmulatedRuntime : public DeviceRuntime {
 public:
  std::string DeviceName() const override { return "emulated device"; }
  size_t MemoryBytes() const override { return kDeviceMemoryBytes; }
  absl::Status MakeCurrent() override { return absl::OkStatus(); }
  void* Allocate(size_t bytes) override { return AllocateDeviceMemory(bytes); }
  void Free(void* block) override { FreeDeviceMemory(block); }
  void Use(void* block, size_t bytes) override { UseDeviceMemory(block, bytes); }
  bool AllowsParts() const override { return false; }
  void* AllocatePinned(size_t bytes) override {
    return std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  }
  void FreePinned(void* block) override { std::free(block); }
  absl::StatusOr<StreamHandle> CreateStream(StreamPriority) override {
    return StreamHandle{&streams_[next_stream_++ % sizeof(streams_)]};
  }
  absl::Status Copy(void* to, const void* from, size_t bytes, StreamHandle) override {
    const DeviceMemoryAccess access;
    std::memcpy(to, from, bytes);
    return absl::OkStatus();
  }
  absl::Status FillZero(void* to, size_t bytes, StreamHandle) override {
    const DeviceMemoryAccess access;
    std::memset(to, 0, bytes);
    return absl::OkStatus();
  }
  absl::StatusOr<std::shared_ptr<PendingWork>> Record(StreamHandle) override {
    return std::make_shared<DoneWork>();
  }
  absl::StatusOr<std::shared_ptr<PendingWork>> RecordTime(StreamHandle) override {
    return std::make_shared<TimedWork>();
  }
  absl::StatusOr<double> SecondsBetween(PendingWork& begin, PendingWork& end) override {
    return std::chrono::duration<double>(static_cast<TimedWork&>(end).time -
                                         static_cast<TimedWork&>(begin).time)
        .count();
  }
  absl::Status WaitFor(StreamHandle, PendingWork&) override { return absl::OkStatus(); }
  absl::Status Synchronize(StreamHandle) override { return absl::OkStatus(); }

 private:
  std::atomic<size_t> next_stream_ = 0;
  char streams_[64] = {};
};

}  // namespace
}  // namespace emulation

namespace cuda {

namespace {
std::atomic<int> num_devices = 0;
}  // namespace

bool IsEmulated() { return true; }
void AllowEmulation(int devices) { num_devices = devices; }
int NumDevices() { return num_devices; }

absl::StatusOr<std::shared_ptr<DeviceRuntime>> Runtime(int index) {
  static const auto& runtime =
      *new std::shared_ptr<DeviceRuntime>(std::make_shared<emulation::EmulatedRuntime>());
  if (num_devices == 0) {
    return absl::FailedPreconditionError(
        "this plait was built without CUDA; build it where nvcc is found");
  }
  if (index >= num_devices) {
    return absl::FailedPreconditionError(
        absl::StrCat("there is no CUDA device ", index, "; the emulation has ", NumDevices()));
  }
  return runtime;
}

absl::Status ToStatus(int code, const char* what) {
  if (code == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": code ", code));
}

}  // namespace cuda
}  // namespace plait
