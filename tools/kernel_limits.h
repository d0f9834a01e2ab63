// What bounds a kernel on a device, and how near to it a kernel is meant to come.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/execution.h"

namespace plait {

// What one run of a kernel has to do at least.
struct KernelWork {
  double bytes = 0;              // read and written, each operand once
  double flops = 0;              // of matrix products
  double exponentials = 0;       // one each for a state of the scan
  double vector_operations = 0;  // f32 multiply-adds outside matrix products
};

// Rates a second; 0: not known.
struct KernelLimits {
  double bytes = 0;              // measured: a copy within the device, read and written
  double flops = 0;              // measured: the best matrix product in bf16
  double exponentials = 0;       // of the chip
  double vector_operations = 0;  // of the chip
};

// Of the execution's device, which is no CPU. Flops stay 0 where no matrix product runs on it.
absl::StatusOr<KernelLimits> MeasureKernelLimits(Execution& execution);

struct LimitedTime {
  std::string limit;   // "copy", "GEMM", "exp", "f32"; empty: no limit is known
  double seconds = 0;  // no run can be shorter
};

LimitedTime LeastTime(const KernelWork& work, const KernelLimits& limits);

// The share of its limit that an operation is to reach on Hopper; 0: none is set.
double GoalOfKernel(const std::string& operation);

}  // namespace plait
