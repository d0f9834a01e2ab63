// A matrix product by cuBLASLt (library_product.cc), or by host loops where the device is emulated
// (emulation/library_product.cc): what matrix products of other dtypes and of groups are made of.
//
// cuBLASLt's algorithm is its heuristic's first for the shape, strides, alignments and dtypes of
// the call, asked for once and kept by the execution: equal calls give equal bits, while a row's
// bits may change with the number of rows beside it. Partial sums are added in the dtype of the
// sum, in a fixed order; f32 is multiplied in full precision, never as TF32. Workspace:
// kLibraryWorkspaceBytes an execution, whatever the shapes.
#pragma once

#include "absl/status/status.h"
#include "base/execution.h"
#include "kernels/matmul_args.h"

namespace plait::cuda {

inline constexpr int64_t kLibraryWorkspaceBytes = int64_t{32} << 20;

// Whether LibraryProduct takes operands of dtype `operand` to c of dtype `c`: bf16 to bf16 or f32,
// f32 to f32, f64 to f64.
constexpr bool HasLibraryProduct(DType operand, DType c) {
  return operand == DType::kBf16 ? c == DType::kBf16 || c == DType::kF32 : c == operand;
}

// c (+)= op(a) op(b), without a bias, for m, n, k > 0. a and b are of one dtype, such that
// HasLibraryProduct. Unimplemented where cuBLASLt has no algorithm.
absl::Status LibraryProduct(Execution& execution, const MatmulArgs& args);

}  // namespace plait::cuda
