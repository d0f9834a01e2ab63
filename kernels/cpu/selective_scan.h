// SIMD selective scan for bf16 and f32: a lane is a channel, the state stays in registers.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/selective_scan_args.h"

namespace plait::cpu {

std::string AcceptsSelectiveScanInputs(const SelectiveScanInputs& in);
std::string AcceptsSelectiveScanForward(const SelectiveScanForwardArgs& args);
absl::Status SelectiveScanForward(Execution& execution, const SelectiveScanForwardArgs& args);
std::string AcceptsSelectiveScanBackward(const SelectiveScanBackwardArgs& args);
absl::Status SelectiveScanBackward(Execution& execution, const SelectiveScanBackwardArgs& args);

}  // namespace plait::cpu
