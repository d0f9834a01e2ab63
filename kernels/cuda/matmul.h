// Matrix product on a CUDA device: the library's (library_product.h) where it takes the dtypes,
// else around it: the operand of the narrower dtype is widened into scratch, and sums of a dtype
// that c has not are written to scratch and rounded from there. A bias is added by that last pass,
// or in place where c has the dtype of the sums: one rounding in every case. Scratch: operands and
// sums of at most the product's own size, nothing for operands of one dtype to c of theirs.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/matmul_args.h"
#include "kernels/scratch.h"

namespace plait::cuda {

// bf16, f32 and f64 in any mix.
std::string AcceptsMatmul(const MatmulArgs& args);
absl::Status Matmul(Execution& execution, const MatmulArgs& args);
KernelScratch::Blocks MatmulScratch(const MatmulScratchShape& shape);

}  // namespace plait::cuda
