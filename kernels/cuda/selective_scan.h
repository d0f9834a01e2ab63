// Selective scan on a CUDA device, for bf16, f32 and f64. A thread owns a channel and walks over
// time with its states in registers (8 or 16 states; others in shared memory); a block takes
// neighbouring channels, which share the rows of B and C, and one segment of the microbatch
// (selective_scan_segments.h). The backward runs over the tokens of a checkpoint, newest first,
// four states at a time; db and dc are summed over the lanes of a warp, then its block's warps,
// then blocks, in that order.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/scratch.h"
#include "kernels/selective_scan_args.h"

namespace plait::cuda {

std::string AcceptsSelectiveScanInputs(const SelectiveScanInputs& in);
std::string AcceptsSelectiveScanForward(const SelectiveScanForwardArgs& args);
absl::Status SelectiveScanForward(Execution& execution, const SelectiveScanForwardArgs& args);
KernelScratch::Blocks SelectiveScanForwardScratch(const ScanScratchShape& shape);
std::string AcceptsSelectiveScanBackward(const SelectiveScanBackwardArgs& args);
absl::Status SelectiveScanBackward(Execution& execution, const SelectiveScanBackwardArgs& args);
KernelScratch::Blocks SelectiveScanBackwardScratch(const ScanScratchShape& shape);

}  // namespace plait::cuda
