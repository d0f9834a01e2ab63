// Products of fine groups of bf16 rows by CUTLASS's grouped kernel for Hopper: one persistent
// launch, warp-specialised, operands by TMA, 128 x 128 tiles. TMA cannot gather: gathered rows are
// copied first, all of them, [rows, k], which does not depend on how rows are spread over groups.
// Further scratch: a few words a group and tensor maps for each multiprocessor.
// Where CUTLASS was not found when plait was built, and where the device is emulated, it refuses.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/grouped_matmul_args.h"

namespace plait::cuda {

// bf16 alone, with columns, strides and addresses that are multiples of 16 bytes.
std::string AcceptsCutlassGroupedMatmul(const GroupedMatmulArgs& args);
absl::Status CutlassGroupedMatmul(Execution& execution, const GroupedMatmulArgs& args);

}  // namespace plait::cuda
