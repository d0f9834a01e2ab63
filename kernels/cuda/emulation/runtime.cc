// The emulated device. Its memory is a region that the host cannot touch but while a kernel or copy
// runs, so that code that mistakes a device's pointer for the host's ends at once.
#include "kernels/cuda/runtime.h"

#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/stream.h"
#include "kernels/cuda/emulation/device_memory.h"

namespace plait {
namespace emulation {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kProtected = false;  // blocks of their own, so that the sanitizer knows their ends
#else
constexpr bool kProtected = true;
#endif

constexpr size_t kRegionBytes = size_t{8} << 30;  // of addresses; memory is taken when touched
constexpr size_t kAlignment = 256;

// Blocks one after another; what is freed is handed out again only when everything is free, for
// the caching allocator above keeps its blocks.
class Region {
 public:
  static Region& Instance() {
    static Region& region = *new Region();
    return region;
  }

  void* Allocate(size_t bytes) {
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (!kProtected) return std::aligned_alloc(kAlignment, bytes);
    const std::lock_guard lock(mutex_);
    if (base_ == nullptr) {
      base_ = mmap(nullptr, kRegionBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
      PLAIT_CHECK(base_ != MAP_FAILED);
    }
    if (bytes > kRegionBytes - used_) return nullptr;
    void* block = static_cast<char*>(base_) + used_;
    used_ += bytes;
    ++blocks_;
    if (users_ > 0) Protect();
    return block;
  }
  void Free(void* block) {
    if (!kProtected) return std::free(block);
    const std::lock_guard lock(mutex_);
    if (--blocks_ == 0) used_ = 0;
  }
  void Open() {
    if (!kProtected) return;
    const std::lock_guard lock(mutex_);
    if (users_++ == 0) Protect();
  }
  void Close() {
    if (!kProtected) return;
    const std::lock_guard lock(mutex_);
    if (--users_ == 0) Protect();
  }

 private:
  void Protect() {
    if (base_ == nullptr || used_ == 0) return;
    PLAIT_CHECK(mprotect(base_, (used_ + 4095) / 4096 * 4096,
                         users_ > 0 ? PROT_READ | PROT_WRITE : PROT_NONE) == 0);
  }

  std::mutex mutex_;
  void* base_ = nullptr;
  size_t used_ = 0;
  int blocks_ = 0;
  int users_ = 0;
};

}  // namespace

DeviceMemoryAccess::DeviceMemoryAccess() { Region::Instance().Open(); }
DeviceMemoryAccess::~DeviceMemoryAccess() { Region::Instance().Close(); }

namespace {

// All streams run inline, so everything before an event is done.
class DoneWork : public PendingWork {
 public:
  absl::Status Wait() override { return absl::OkStatus(); }
  bool Test() override { return true; }
  bool OnDevice() const override { return true; }
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
  size_t MemoryBytes() const override { return kRegionBytes; }
  void* Allocate(size_t bytes) override { return Region::Instance().Allocate(bytes); }
  void Free(void* block) override { Region::Instance().Free(block); }
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

bool IsEmulated() { return true; }
int NumDevices() { return 1; }

absl::StatusOr<std::shared_ptr<DeviceRuntime>> Runtime(int index) {
  static const auto& runtime =
      *new std::shared_ptr<DeviceRuntime>(std::make_shared<emulation::EmulatedRuntime>());
  if (index != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("there is no CUDA device ", index, "; the emulation has one"));
  }
  return runtime;
}

absl::Status ToStatus(int code, const char* what) {
  if (code == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": code ", code));
}

}  // namespace cuda
}  // namespace plait
