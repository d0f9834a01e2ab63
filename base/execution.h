// Execution: what a call needs besides its data. Device, streams, threads, memory, and the kernels'
// own caches (primitives, packed weights, scratch). Passed by reference; it replaces globals. One
// per rank; not thread-safe.
#pragma once

#include <memory>
#include <typeindex>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/allocator.h"
#include "base/device.h"
#include "base/device_runtime.h"
#include "base/pinned_staging.h"
#include "base/stream.h"
#include "base/tensor.h"

namespace plait {

struct ExecutionOptions {
  Device device;
  // Of `device`, where that is not the CPU.
  std::shared_ptr<DeviceRuntime> runtime;
  // 0: every core this process may run on.
  int num_threads = 0;
};

class Execution {
 public:
  explicit Execution(const ExecutionOptions& options = {});

  Execution(const Execution&) = delete;
  Execution& operator=(const Execution&) = delete;

  const Device& device() const { return device_; }
  int num_threads() const { return num_threads_; }
  Stream& compute() { return compute_; }
  Stream& communication() { return communication_; }
  // The communication stream, which from here on waits for what the compute stream was given so
  // far: what a collective reads is ready, and what it writes is no longer in use.
  Stream& communication_after_compute();
  Stream& copy() { return copy_; }
  Allocator& allocator() { return *allocator_; }
  const Allocator& allocator() const { return *allocator_; }
  // Null on the CPU.
  const std::shared_ptr<DeviceRuntime>& runtime() const { return runtime_; }

  Tensor Empty(DType dtype, const Shape& shape) { return Tensor::Empty(*allocator_, dtype, shape); }
  Tensor Zeros(DType dtype, const Shape& shape);

  // In the order of the compute stream; tensors are this device's or the host's. Copy: as many
  // bytes in both. Host memory that is read must stay as it is until the stream has come so far.
  absl::Status FillZero(Tensor& tensor);
  absl::Status Copy(const Tensor& from, Tensor& to);
  // A copy on its way to the host; the tensor itself where it is there.
  absl::StatusOr<HostCopy> StartToHost(const Tensor& tensor);
  // As StartToHost, and waits for it.
  absl::StatusOr<Tensor> ToHost(const Tensor& tensor);
  // A copy on this device; the tensor itself where it is there. The host does not wait, and may
  // change the tensor at once.
  absl::StatusOr<Tensor> ToDevice(const Tensor& tensor);
  // The same for as many bytes as `to` has.
  absl::Status Send(const void* from, Tensor& to);

  // Most bytes of pinned memory of the host that were in use at a time; 0 on the CPU.
  size_t pinned_bytes_peak() const { return staging_ == nullptr ? 0 : staging_->bytes_peak(); }

  // Gives outstanding communication a chance to move. Called between kernels.
  void Poll() { communication_.Poll(); }

  // The one object of type T kept for this execution, made on first use: a kernel family's cache.
  template <class T>
  T& Cache() {
    auto& slot = caches_[std::type_index(typeid(T))];
    if (!slot) slot = std::make_shared<T>();
    return *static_cast<T*>(slot.get());
  }

 private:
  Device device_;
  int num_threads_;
  std::shared_ptr<DeviceRuntime> runtime_;
  std::shared_ptr<Allocator> allocator_;
  Stream compute_, communication_, copy_;
  std::unique_ptr<PinnedStaging> staging_;  // null on the CPU
  std::unordered_map<std::type_index, std::shared_ptr<void>> caches_;
};

// Cores in this process's affinity mask.
int NumAvailableCores();

}  // namespace plait
