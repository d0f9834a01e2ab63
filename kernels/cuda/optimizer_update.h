// AdamW and sums of squares on a CUDA device, for f32 and f64: a launch takes about 60 tensors of
// the one and 120 of the other (tensor_table.h). A sum of squares belongs to a warp, whose lanes
// take four neighbouring elements each, in the same order wherever the array begins.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/optimizer_update_args.h"

namespace plait::cuda {

std::string AcceptsAdamWUpdate(const AdamWUpdateArgs& args);
absl::Status AdamWUpdate(Execution& execution, const AdamWUpdateArgs& args);
std::string AcceptsSquaredNorm(const SquaredNormArgs& args);
absl::Status SquaredNorm(Execution& execution, const SquaredNormArgs& args);

}  // namespace plait::cuda
