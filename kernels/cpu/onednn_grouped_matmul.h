// Grouped matrix products by oneDNN, for bf16 where the processor multiplies bf16. The f32 form is
// the same code with another data type; the own GEMM is preferred to it.
// Groups change size with every batch, and a primitive takes milliseconds to make: rows go through
// in blocks of a few fixed sizes, the last one filled up with zero rows in scratch.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/grouped_matmul_args.h"

namespace plait::cpu {

std::string AcceptsOnednnBf16GroupedMatmul(const GroupedMatmulArgs& args);
std::string AcceptsOnednnF32GroupedMatmul(const GroupedMatmulArgs& args);
absl::Status OnednnGroupedMatmul(Execution& execution, const GroupedMatmulArgs& args);

std::string AcceptsOnednnBf16GroupedWeightGradient(const GroupedWeightGradientArgs& args);
std::string AcceptsOnednnF32GroupedWeightGradient(const GroupedWeightGradientArgs& args);
absl::Status OnednnGroupedWeightGradient(Execution& execution,
                                         const GroupedWeightGradientArgs& args);

}  // namespace plait::cpu
