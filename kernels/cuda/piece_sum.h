// Sum of pieces on a CUDA device: a thread an element.
#pragma once

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/piece_sum_args.h"

namespace plait::cuda {

absl::Status PieceSum(Execution& execution, const PieceSumArgs& args);

}  // namespace plait::cuda
