#include "kernels/gemm_peak.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <span>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cuda/runtime.h"
#include "kernels/matmul.h"

namespace plait {
namespace {

struct ProductShape {
  int64_t m, n, k;
};
constexpr ProductShape kCpuShapes[] = {
    {256, 256, 256}, {512, 256, 512}, {512, 512, 512}, {1024, 512, 512}, {1024, 1024, 1024}};
constexpr ProductShape kCudaShapes[] = {{4096, 4096, 4096}, {4096, 8192, 2048}, {8192, 8192, 8192}};

std::span<const ProductShape> ShapesOf(const Execution& execution) {
  if (execution.device().kind == DeviceKind::kCpu) return kCpuShapes;
  return cuda::IsEmulated() ? std::span(kCpuShapes).first(1) : std::span(kCudaShapes);
}

double SecondsNow() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Numbers of many different bits, as a model's: a GPU is faster on ones. None is so small or large
// that it slows or stops the arithmetic.
absl::StatusOr<Tensor> Numbers(Execution& execution, DType dtype, const Shape& shape) {
  Tensor tensor = Tensor::OnHost(dtype, shape);
  uint32_t state = 1;
  for (int64_t i = 0; i < tensor.num_elements(); ++i) {
    state = state * 1664525u + 1013904223u;
    const float value = 0.5f + static_cast<float>(state >> 8) * 0x1p-24f;
    const float signed_value = (state & 0x100u) != 0 ? value : -value;
    if (dtype == DType::kBf16) {
      tensor.data<BFloat16>()[i] = BFloat16(signed_value);
    } else {
      tensor.data<float>()[i] = signed_value;
    }
  }
  return execution.ToDevice(tensor);
}

}  // namespace

absl::StatusOr<GemmPeak> MeasureGemmPeak(Execution& execution, DType dtype,
                                         double seconds_per_shape) {
  if (dtype != DType::kBf16 && dtype != DType::kF32) {
    return absl::InvalidArgumentError(
        absl::StrCat("gemm peak: expected bf16 or f32, got ", Name(dtype)));
  }
  GemmPeak peak;
  for (const auto& [m, n, k] : ShapesOf(execution)) {
    PLAIT_ASSIGN_OR_RETURN(const Tensor x, Numbers(execution, dtype, {m, k}));
    PLAIT_ASSIGN_OR_RETURN(const Tensor w, Numbers(execution, dtype, {n, k}));
    Tensor y = execution.Empty(dtype, {m, n});
    const MatmulArgs args = {
        .a = x.matrix(), .b = w.matrix(), .transpose_b = Transpose::kYes, .c = y.matrix()};
    double shortest = std::numeric_limits<double>::infinity();
    const double start = SecondsNow();
    for (int run = 0; run < 3 || SecondsNow() - start < seconds_per_shape; ++run) {
      const double before = SecondsNow();
      PLAIT_RETURN_IF_ERROR(Matmul(execution, args));
      PLAIT_RETURN_IF_ERROR(execution.compute().Synchronize());
      shortest = std::min(shortest, SecondsNow() - before);
    }
    const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(n * k) / shortest;
    peak.rates.push_back({.m = m, .n = n, .k = k, .flops_per_second = flops});
    peak.best_flops_per_second = std::max(peak.best_flops_per_second, flops);
  }
  return peak;
}

}  // namespace plait
