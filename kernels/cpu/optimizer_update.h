// SIMD AdamW and sum of squares for f32 states; the compute copy in bf16 or f32.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/optimizer_update_args.h"

namespace plait::cpu {

std::string AcceptsAdamWUpdate(const AdamWUpdateArgs& args);
absl::Status AdamWUpdate(Execution& execution, const AdamWUpdateArgs& args);
std::string AcceptsSquaredNorm(const SquaredNormArgs& args);
absl::Status SquaredNorm(Execution& execution, const SquaredNormArgs& args);

}  // namespace plait::cpu
