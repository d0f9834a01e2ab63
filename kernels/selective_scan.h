// Mamba-1 selective scan. Formulas and shapes: selective_scan_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/implementation.h"
#include "kernels/selective_scan_args.h"

namespace plait {

absl::Status SelectiveScanForward(Execution& execution, const SelectiveScanForwardArgs& args);
absl::Status SelectiveScanBackward(Execution& execution, const SelectiveScanBackwardArgs& args);

std::span<const Implementation<SelectiveScanForwardArgs>> SelectiveScanForwardImplementations();
std::span<const Implementation<SelectiveScanBackwardArgs>> SelectiveScanBackwardImplementations();

}  // namespace plait
