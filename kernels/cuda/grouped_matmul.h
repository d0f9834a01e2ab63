// Products of fine groups of rows on a CUDA device: one launch for all groups, a block for each
// (group, tile of rows, tile of columns), the last tile of a group cut at its end. No padding, no
// copies of gathered rows, no scratch. bf16 on tensor cores (128 x 128 tiles), f32 and f64 in full
// precision on the others (64 x 64). The inner sum runs in its index's order in tiles of a fixed
// size, so that a row's result depends on no other row.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/grouped_matmul_args.h"

namespace plait::cuda {

// a and b of one dtype: bf16 to bf16 or f32, f32 to f32, f64 to f64.
std::string AcceptsGroupedMatmul(const GroupedMatmulArgs& args);
absl::Status GroupedMatmul(Execution& execution, const GroupedMatmulArgs& args);
// bf16 to f32, f32 to f32, f64 to f64.
std::string AcceptsGroupedWeightGradient(const GroupedWeightGradientArgs& args);
absl::Status GroupedWeightGradient(Execution& execution, const GroupedWeightGradientArgs& args);

}  // namespace plait::cuda
