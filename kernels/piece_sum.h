// Sum of the pieces of several ranks. Formulas and shapes: piece_sum_args.h.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/implementation.h"
#include "kernels/piece_sum_args.h"

namespace plait {

absl::Status PieceSum(Execution& execution, const PieceSumArgs& args);

std::span<const Implementation<PieceSumArgs>> PieceSumImplementations();

}  // namespace plait
