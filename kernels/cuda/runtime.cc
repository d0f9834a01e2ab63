#include "kernels/cuda/runtime.h"

#include <cuda_runtime_api.h>

#include <array>
#include <mutex>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/stream.h"

namespace plait::cuda {

absl::Status ToStatus(int code, const char* what) {
  if (code == cudaSuccess) return absl::OkStatus();
  const auto error = static_cast<cudaError_t>(code);
  return absl::InternalError(
      absl::StrCat(what, ": ", cudaGetErrorName(error), ": ", cudaGetErrorString(error)));
}

namespace {

class EventWork : public PendingWork {
 public:
  EventWork() = default;
  ~EventWork() override {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  absl::Status Record(cudaStream_t stream, unsigned flags) {
    PLAIT_RETURN_IF_ERROR(ToStatus(cudaEventCreateWithFlags(&event_, flags), "making an event"));
    return ToStatus(cudaEventRecord(event_, stream), "recording an event");
  }
  absl::Status Wait() override {
    return ToStatus(cudaEventSynchronize(event_), "waiting for the device");
  }
  bool Test() override { return cudaEventQuery(event_) != cudaErrorNotReady; }
  PendingWork* DeviceWork() override { return this; }
  cudaEvent_t event() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

class CudaRuntime : public DeviceRuntime {
 public:
  CudaRuntime(int index, const cudaDeviceProp& properties)
      : index_(index), name_(properties.name), memory_bytes_(properties.totalGlobalMem) {}
  ~CudaRuntime() override {
    for (const cudaStream_t stream : streams_) cudaStreamDestroy(stream);
  }

  std::string DeviceName() const override { return name_; }
  size_t MemoryBytes() const override { return memory_bytes_; }
  absl::Status MakeCurrent() override {
    return ToStatus(cudaSetDevice(index_), "choosing a device");
  }

  void* Allocate(size_t bytes) override {
    void* block = nullptr;
    if (cudaSetDevice(index_) != cudaSuccess || cudaMalloc(&block, bytes) != cudaSuccess) {
      cudaGetLastError();  // not sticky: the allocator tries again, or says what it held
      return nullptr;
    }
    return block;
  }
  void Free(void* block) override { cudaFree(block); }
  void* AllocatePinned(size_t bytes) override {
    void* block = nullptr;
    if (cudaHostAlloc(&block, bytes, cudaHostAllocPortable | cudaHostAllocMapped) != cudaSuccess) {
      cudaGetLastError();
      return nullptr;
    }
    return block;
  }
  void FreePinned(void* block) override { cudaFreeHost(block); }

  absl::StatusOr<StreamHandle> CreateStream(StreamPriority priority) override {
    int least = 0, greatest = 0;
    PLAIT_RETURN_IF_ERROR(ToStatus(cudaDeviceGetStreamPriorityRange(&least, &greatest),
                                   "asking for the range of stream priorities"));
    cudaStream_t stream = nullptr;
    PLAIT_RETURN_IF_ERROR(
        ToStatus(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking,
                                              priority == StreamPriority::kHigh ? greatest : least),
                 "making a stream"));
    const std::lock_guard lock(mutex_);
    streams_.push_back(stream);
    return stream;
  }
  absl::Status Copy(void* to, const void* from, size_t bytes, StreamHandle stream) override {
    return ToStatus(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, Stream(stream)), "copying");
  }
  absl::Status FillZero(void* to, size_t bytes, StreamHandle stream) override {
    return ToStatus(cudaMemsetAsync(to, 0, bytes, Stream(stream)), "filling with zeros");
  }
  absl::StatusOr<std::shared_ptr<PendingWork>> Record(StreamHandle stream) override {
    auto work = std::make_shared<EventWork>();
    PLAIT_RETURN_IF_ERROR(work->Record(Stream(stream), cudaEventDisableTiming));
    return work;
  }
  absl::StatusOr<std::shared_ptr<PendingWork>> RecordTime(StreamHandle stream) override {
    auto work = std::make_shared<EventWork>();
    PLAIT_RETURN_IF_ERROR(work->Record(Stream(stream), cudaEventDefault));
    return work;
  }
  absl::StatusOr<double> SecondsBetween(PendingWork& begin, PendingWork& end) override {
    PLAIT_RETURN_IF_ERROR(end.Wait());
    float milliseconds = 0;
    PLAIT_RETURN_IF_ERROR(
        ToStatus(cudaEventElapsedTime(&milliseconds, static_cast<EventWork&>(begin).event(),
                                      static_cast<EventWork&>(end).event()),
                 "asking for the time between events"));
    return milliseconds * 1e-3;
  }
  absl::Status WaitFor(StreamHandle stream, PendingWork& work) override {
    return ToStatus(cudaStreamWaitEvent(Stream(stream), static_cast<EventWork&>(work).event(), 0),
                    "waiting for an event");
  }
  absl::Status Synchronize(StreamHandle stream) override {
    return ToStatus(cudaStreamSynchronize(Stream(stream)), "waiting for the device");
  }

 private:
  static cudaStream_t Stream(StreamHandle stream) { return static_cast<cudaStream_t>(stream); }

  const int index_;
  const std::string name_;
  const size_t memory_bytes_;
  std::mutex mutex_;
  std::vector<cudaStream_t> streams_;
};

constexpr int kMaxDevices = 64;

}  // namespace

bool IsEmulated() { return false; }
void AllowEmulation(int /*devices*/) {}

int NumDevices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

absl::StatusOr<std::shared_ptr<DeviceRuntime>> Runtime(int index) {
  static std::mutex mutex;
  static auto& runtimes = *new std::array<std::shared_ptr<DeviceRuntime>, kMaxDevices>();
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code != cudaSuccess) {
    cudaGetLastError();
    return absl::FailedPreconditionError(
        absl::StrCat("no CUDA device can be used: ", cudaGetErrorString(code)));
  }
  if (index < 0 || index >= std::min(count, kMaxDevices)) {
    return absl::FailedPreconditionError(
        absl::StrCat("there is no CUDA device ", index, "; this process sees ", count));
  }
  PLAIT_RETURN_IF_ERROR(ToStatus(cudaSetDevice(index), "choosing a device"));
  const std::lock_guard lock(mutex);
  std::shared_ptr<DeviceRuntime>& runtime = runtimes[static_cast<size_t>(index)];
  if (runtime == nullptr) {
    cudaDeviceProp properties;
    PLAIT_RETURN_IF_ERROR(
        ToStatus(cudaGetDeviceProperties(&properties, index), "asking for a device's properties"));
    if (properties.major != 9) {
      return absl::FailedPreconditionError(
          absl::StrCat("CUDA device ", index, " (", properties.name, ") has compute capability ",
                       properties.major, ".", properties.minor,
                       "; plait's kernels are compiled for 9.0 (Hopper)"));
    }
    runtime = std::make_shared<CudaRuntime>(index, properties);
  }
  return runtime;
}

}  // namespace plait::cuda
