#include "kernels/gemm_peak.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/matmul.h"

namespace plait {
namespace {

constexpr int64_t kShapes[][3] = {
    {256, 256, 256}, {512, 256, 512}, {512, 512, 512}, {1024, 512, 512}, {1024, 1024, 1024}};

double SecondsNow() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Ones: no denormal and no overflow slows or stops the arithmetic.
Tensor Ones(Execution& execution, DType dtype, const Shape& shape) {
  Tensor tensor = execution.Empty(dtype, shape);
  if (dtype == DType::kBf16) {
    std::ranges::fill(tensor.values<BFloat16>(), BFloat16(1.0f));
  } else {
    std::ranges::fill(tensor.values<float>(), 1.0f);
  }
  return tensor;
}

}  // namespace

absl::StatusOr<GemmPeak> MeasureGemmPeak(Execution& execution, DType dtype,
                                         double seconds_per_shape) {
  if (dtype != DType::kBf16 && dtype != DType::kF32) {
    return absl::InvalidArgumentError(
        absl::StrCat("gemm peak: expected bf16 or f32, got ", Name(dtype)));
  }
  if (execution.device().kind != DeviceKind::kCpu) {
    return absl::UnimplementedError("gemm peak: measured on the CPU only");
  }
  GemmPeak peak;
  for (const auto& [m, n, k] : kShapes) {
    const Tensor x = Ones(execution, dtype, {m, k}), w = Ones(execution, dtype, {n, k});
    Tensor y = execution.Empty(dtype, {m, n});
    const MatmulArgs args = {
        .a = x.matrix(), .b = w.matrix(), .transpose_b = Transpose::kYes, .c = y.matrix()};
    double shortest = std::numeric_limits<double>::infinity();
    const double start = SecondsNow();
    for (int run = 0; run < 3 || SecondsNow() - start < seconds_per_shape; ++run) {
      const double before = SecondsNow();
      PLAIT_RETURN_IF_ERROR(Matmul(execution, args));
      shortest = std::min(shortest, SecondsNow() - before);
    }
    const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(n * k) / shortest;
    peak.rates.push_back({.m = m, .n = n, .k = k, .flops_per_second = flops});
    peak.best_flops_per_second = std::max(peak.best_flops_per_second, flops);
  }
  return peak;
}

}  // namespace plait
