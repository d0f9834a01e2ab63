// Products of coarse groups of rows on a CUDA device: one product a group by cuBLASLt (matmul.h),
// which is within a few percent of a dense one where groups have rows and weights enough to fill
// the device. Gathered rows are copied first, 8192 at a time: scratch of at most 8192 rows whatever
// the routing; longer groups are multiplied in pieces, in order.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/grouped_matmul_args.h"
#include "kernels/scratch.h"

namespace plait::cuda {

// From 256 rows a group on average and 8 Mi weights a group on; the functions below take any.
std::string AcceptsLibraryGroupedMatmul(const GroupedMatmulArgs& args);
absl::Status LibraryGroupedMatmul(Execution& execution, const GroupedMatmulArgs& args);
std::string AcceptsLibraryGroupedWeightGradient(const GroupedWeightGradientArgs& args);
absl::Status LibraryGroupedWeightGradient(Execution& execution,
                                          const GroupedWeightGradientArgs& args);
// Whether it accepts products with so many rows in all groups, and weights of each.
bool AcceptsLibraryGroups(int64_t rows, int64_t groups, int64_t weights);
// Of either, without that of the products.
KernelScratch::Blocks LibraryGroupedScratch(const GroupedScratchShape& shape);

}  // namespace plait::cuda
