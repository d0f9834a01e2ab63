// Runs each implementation of an operation on the device it is for: the CPU, and a CUDA device.
// Tests are linked with the emulation; those that end in _gpu_test with CUDA, and their main
// (device_main.cc) begins no test where there is no device. What kernels read and write must be in
// a Tensor or ReachableVector made inside a test: a device reaches neither std::vector nor the
// stack.
#pragma once

#include "base/execution.h"
#include "kernels/cuda/runtime.h"
#include "kernels/implementation.h"

namespace plait {

// Null where there is no device.
inline Execution* CudaExecution() {
  static Execution* const execution = [] {
    cuda::AllowEmulation();
    auto runtime = cuda::Runtime(0);
    if (!runtime.ok()) return static_cast<Execution*>(nullptr);
    return new Execution({.device = {DeviceKind::kCuda, 0}, .runtime = *runtime});
  }();
  return execution;
}

// `run` on tensors of OnHost, which a device of the tests can read and write, too; then waits. The
// CPU's runs with `cpu`.
template <class Args>
absl::Status RunOn(Execution& cpu, const Implementation<Args>& implementation, const Args& args) {
  if (implementation.device == DeviceKind::kCpu) return implementation.run(cpu, args);
  Execution* cuda = CudaExecution();
  if (cuda == nullptr) return absl::FailedPreconditionError("there is no CUDA device");
  const absl::Status status = implementation.run(*cuda, args);
  return status.ok() ? cuda->compute().Synchronize() : status;
}

}  // namespace plait
