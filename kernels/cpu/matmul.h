// Matrix product and grouped matrix products by the own GEMM (gemm.h), for bf16 and f32.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/grouped_matmul_args.h"
#include "kernels/matmul_args.h"

namespace plait::cpu {

std::string AcceptsMatmul(const MatmulArgs& args);
absl::Status Matmul(Execution& execution, const MatmulArgs& args);

// Gathered rows are read where they lie: no permuted copy. All groups share the threads.
std::string AcceptsGroupedMatmul(const GroupedMatmulArgs& args);
absl::Status GroupedMatmul(Execution& execution, const GroupedMatmulArgs& args);
std::string AcceptsGroupedWeightGradient(const GroupedWeightGradientArgs& args);
absl::Status GroupedWeightGradient(Execution& execution, const GroupedWeightGradientArgs& args);

}  // namespace plait::cpu
