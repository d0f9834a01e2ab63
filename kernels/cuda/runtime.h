// The devices of this process: CUDA's, or the emulated one in builds without CUDA and in tests.
#pragma once

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/device_runtime.h"
#include "base/execution.h"
#include "base/status_macros.h"

namespace plait::cuda {

// Whether DeviceKind::kCuda is the emulation (kernels/cuda/emulation): for tests, slow.
bool IsEmulated();
// Tests call it: before, the emulation has no device. Without effect where devices are real.
void AllowEmulation(int devices = 1);

// Devices that work can be given to; 0 where there is no driver.
int NumDevices();

// The device `index`, the same object at every call; those of the emulation are one.
// FailedPrecondition where there is none, with the reason. Makes it the calling thread's current
// device.
absl::StatusOr<std::shared_ptr<DeviceRuntime>> Runtime(int index);

// What an Execution on the device `index` is made from; errors as above.
inline absl::StatusOr<ExecutionOptions> OptionsOn(int index, int num_threads) {
  PLAIT_ASSIGN_OR_RETURN(std::shared_ptr<DeviceRuntime> runtime, Runtime(index));
  return ExecutionOptions{.device = {DeviceKind::kCuda, index},
                          .runtime = std::move(runtime),
                          .num_threads = num_threads};
}

// Of a CUDA error code, Internal "what: CUDA's name and text of the code"; Ok for 0.
absl::Status ToStatus(int code, const char* what);

}  // namespace plait::cuda
