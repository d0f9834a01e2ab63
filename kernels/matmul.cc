#include "kernels/matmul.h"

#include "kernels/cpu/matmul.h"
#include "kernels/cpu/onednn_matmul.h"
#include "kernels/cuda/matmul.h"
#include "kernels/reference/matmul.h"
#include "kernels/shape_check.h"

namespace plait {
namespace {

constexpr Implementation<MatmulArgs> kMatmul[] = {
    {"onednn bf16", DeviceKind::kCpu, cpu::AcceptsOnednnBf16Matmul, cpu::OnednnMatmul},
    {"simd", DeviceKind::kCpu, cpu::AcceptsMatmul, cpu::Matmul},
    // Behind simd: below AVX-512 its rows depend on their neighbours.
    {"onednn f32", DeviceKind::kCpu, cpu::AcceptsOnednnF32Matmul, cpu::OnednnMatmul},
    {"reference", DeviceKind::kCpu, AcceptsAll<MatmulArgs>, reference::Matmul},
    {"cuda", DeviceKind::kCuda, cuda::AcceptsMatmul, cuda::Matmul},
};

}  // namespace

std::span<const Implementation<MatmulArgs>> MatmulImplementations() { return kMatmul; }

absl::Status Matmul(Execution& execution, const MatmulArgs& args) {
  const bool a_transposed = args.transpose_a == Transpose::kYes;
  const bool b_transposed = args.transpose_b == Transpose::kYes;
  const int64_t m = args.c.rows, n = args.c.columns;
  const int64_t k = a_transposed ? args.a.rows : args.a.columns;
  PLAIT_RETURN_IF_ERROR(CheckMatrix("c", args.c, m, n));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("a", args.a, a_transposed ? k : m, a_transposed ? m : k));
  PLAIT_RETURN_IF_ERROR(CheckMatrix("b", args.b, b_transposed ? n : k, b_transposed ? k : n));
  if (args.bias) PLAIT_RETURN_IF_ERROR(CheckVector("bias", args.bias, n));
  if (args.accumulate == Accumulate::kYes) {
    if (args.bias) {
      return absl::InvalidArgumentError("bias: cannot be added where c is accumulated into");
    }
    if (args.c.dtype == DType::kBf16) {
      return absl::InvalidArgumentError("c: accumulation needs f32 or f64, got bf16");
    }
  }
  if (m == 0 || n == 0) return absl::OkStatus();
  return RunFirstAccepted(execution, "matmul", MatmulImplementations(), args);
}

}  // namespace plait
