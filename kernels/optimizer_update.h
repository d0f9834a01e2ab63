// AdamW's update and the sum of squares. Formulas and shapes: optimizer_update_args.h.
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
