// AdamW's update and sums of squares, each over many tensors at once: few launches on a device, one
// parallel region on the CPU. Formulas and shapes: optimizer_update_args.h. InvalidArgument, naming
// the tensor, where a shape or dtype does not fit; nothing has run then.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/implementation.h"
#include "kernels/optimizer_update_args.h"

namespace plait {

absl::Status AdamWUpdate(Execution& execution, const AdamWUpdateArgs& args);
absl::Status SquaredNorm(Execution& execution, const SquaredNormArgs& args);

std::span<const Implementation<AdamWUpdateArgs>> AdamWUpdateImplementations();
std::span<const Implementation<SquaredNormArgs>> SquaredNormImplementations();

}  // namespace plait
