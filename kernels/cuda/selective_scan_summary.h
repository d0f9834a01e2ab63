// Summaries of parts of documents on a CUDA device, for bf16, f32 and f64. Long parts are cut into
// segments that are summarised at the same time and then joined.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/selective_scan_summary_args.h"

namespace plait::cuda {

std::string AcceptsSelectiveScanSummaryForward(const SelectiveScanSummaryForwardArgs& args);
absl::Status SelectiveScanSummaryForward(Execution& execution,
                                         const SelectiveScanSummaryForwardArgs& args);
std::string AcceptsSelectiveScanSummaryBackward(const SelectiveScanSummaryBackwardArgs& args);
absl::Status SelectiveScanSummaryBackward(Execution& execution,
                                          const SelectiveScanSummaryBackwardArgs& args);
std::string AcceptsSelectiveScanCarry(const SelectiveScanCarryArgs& args);
absl::Status SelectiveScanCarry(Execution& execution, const SelectiveScanCarryArgs& args);

}  // namespace plait::cuda
