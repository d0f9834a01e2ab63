#include "base/execution.h"

#include <sched.h>

#include <algorithm>
#include <cstring>

#include "base/status_macros.h"

namespace plait {
namespace {

Stream MakeStream(const std::shared_ptr<DeviceRuntime>& runtime, StreamPriority priority) {
  if (runtime == nullptr) return {};
  const absl::StatusOr<StreamHandle> handle = runtime->CreateStream(priority);
  PLAIT_CHECK(handle.ok());
  return {runtime, *handle};
}

}  // namespace

int NumAvailableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

Execution::Execution(const ExecutionOptions& options)
    : device_(options.device),
      num_threads_(options.num_threads > 0 ? options.num_threads : NumAvailableCores()),
      runtime_(options.runtime),
      allocator_(Allocator::Create(runtime_)),
      compute_(MakeStream(runtime_, StreamPriority::kNormal)),
      communication_(MakeStream(runtime_, StreamPriority::kHigh)),
      copy_(MakeStream(runtime_, StreamPriority::kNormal)),
      staging_(runtime_ == nullptr ? nullptr : std::make_unique<PinnedStaging>(runtime_)) {
  PLAIT_CHECK((device_.kind == DeviceKind::kCpu) == (runtime_ == nullptr));
}

Stream& Execution::communication_after_compute() {
  if (runtime_ != nullptr) PLAIT_CHECK(communication_.Wait(compute_.Record()).ok());
  return communication_;
}

Tensor Execution::Zeros(DType dtype, const Shape& shape) {
  Tensor tensor = Empty(dtype, shape);
  PLAIT_CHECK(FillZero(tensor).ok());
  return tensor;
}

absl::Status Execution::FillZero(Tensor& tensor) {
  if (tensor.bytes() == 0) return absl::OkStatus();
  if (runtime_ != nullptr && tensor.on_device()) {
    return runtime_->FillZero(tensor.raw(), tensor.bytes(), compute_.handle());
  }
  tensor.FillZero();
  return absl::OkStatus();
}

absl::Status Execution::Copy(const Tensor& from, Tensor& to) {
  PLAIT_CHECK_EQ(from.bytes(), to.bytes());
  if (from.bytes() == 0) return absl::OkStatus();
  if (runtime_ != nullptr) {
    return runtime_->Copy(to.raw(), from.raw(), from.bytes(), compute_.handle());
  }
  std::memcpy(to.raw(), from.raw(), from.bytes());
  return absl::OkStatus();
}

absl::StatusOr<HostCopy> Execution::StartToHost(const Tensor& tensor) {
  if (!tensor.on_device()) return HostCopy(tensor);
  return staging_->Fetch(compute_, tensor);
}

absl::StatusOr<Tensor> Execution::ToHost(const Tensor& tensor) {
  PLAIT_ASSIGN_OR_RETURN(HostCopy copy, StartToHost(tensor));
  return copy.Wait();
}

absl::StatusOr<Tensor> Execution::ToDevice(const Tensor& tensor) {
  if (!tensor || runtime_ == nullptr || tensor.on_device()) return tensor;
  Tensor copy = Empty(tensor.dtype(), tensor.shape());
  PLAIT_RETURN_IF_ERROR(Send(tensor.raw(), copy));
  return copy;
}

absl::Status Execution::Send(const void* from, Tensor& to) {
  if (to.bytes() == 0) return absl::OkStatus();
  if (runtime_ != nullptr && to.on_device()) {
    return staging_->Send(compute_, from, to.raw(), to.bytes());
  }
  std::memcpy(to.raw(), from, to.bytes());
  return absl::OkStatus();
}

}  // namespace plait
