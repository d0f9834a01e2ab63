// Summary of one part of a document for the parts beside it. Formulas and shapes:
// selective_scan_summary_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/implementation.h"
#include "kernels/selective_scan_summary_args.h"

namespace plait {

absl::Status SelectiveScanSummaryForward(Execution& execution,
                                         const SelectiveScanSummaryForwardArgs& args);
absl::Status SelectiveScanSummaryBackward(Execution& execution,
                                          const SelectiveScanSummaryBackwardArgs& args);
absl::Status SelectiveScanCarry(Execution& execution, const SelectiveScanCarryArgs& args);

std::span<const Implementation<SelectiveScanSummaryForwardArgs>>
SelectiveScanSummaryForwardImplementations();
std::span<const Implementation<SelectiveScanSummaryBackwardArgs>>
SelectiveScanSummaryBackwardImplementations();
std::span<const Implementation<SelectiveScanCarryArgs>> SelectiveScanCarryImplementations();

}  // namespace plait
