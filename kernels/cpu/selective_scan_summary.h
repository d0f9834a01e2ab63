// SIMD summary of a part of a document for bf16 and f32: a lane is a channel, the state stays in
// registers.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/selective_scan_summary_args.h"

namespace plait::cpu {

std::string AcceptsSelectiveScanSummaryForward(const SelectiveScanSummaryForwardArgs& args);
absl::Status SelectiveScanSummaryForward(Execution& execution,
                                         const SelectiveScanSummaryForwardArgs& args);
std::string AcceptsSelectiveScanSummaryBackward(const SelectiveScanSummaryBackwardArgs& args);
absl::Status SelectiveScanSummaryBackward(Execution& execution,
                                          const SelectiveScanSummaryBackwardArgs& args);
std::string AcceptsSelectiveScanCarry(const SelectiveScanCarryArgs& args);
absl::Status SelectiveScanCarry(Execution& execution, const SelectiveScanCarryArgs& args);

}  // namespace plait::cpu
