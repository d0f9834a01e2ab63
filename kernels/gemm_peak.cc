#include "kernels/gemm_peak.h"

#include <algorithm>
#include <span>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/benchmark.h"
#include "kernels/cuda/runtime.h"
#include "kernels/matmul.h"

namespace plait {
namespace {

using GemmShape = int64_t[3];  // m, n, k

constexpr GemmShape kCpuShapes[] = {
    {256, 256, 256}, {512, 256, 512}, {512, 512, 512}, {1024, 512, 512}, {1024, 1024, 1024}};
constexpr GemmShape kDeviceShapes[] = {
    {4096, 4096, 4096}, {8192, 8192, 8192}, {8192, 16384, 8192}, {8192, 49152, 8192}};

std::span<const GemmShape> ShapesOf(const Execution& execution) {
  if (execution.device().kind == DeviceKind::kCpu) return kCpuShapes;
  return cuda::IsEmulated() ? std::span(kCpuShapes).first(1) : std::span(kDeviceShapes);
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
    PLAIT_ASSIGN_OR_RETURN(const Tensor x, BenchmarkTensor(execution, dtype, {m, k}));
    PLAIT_ASSIGN_OR_RETURN(const Tensor w, BenchmarkTensor(execution, dtype, {n, k}));
    Tensor y = execution.Empty(dtype, {m, n});
    const MatmulArgs args = {
        .a = x.matrix(), .b = w.matrix(), .transpose_b = Transpose::kYes, .c = y.matrix()};
    PLAIT_ASSIGN_OR_RETURN(const double shortest, LeastSeconds(execution, seconds_per_shape, [&] {
                             return Matmul(execution, args);
                           }));
    const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(n * k) / shortest;
    peak.rates.push_back({.m = m, .n = n, .k = k, .flops_per_second = flops});
    peak.best_flops_per_second = std::max(peak.best_flops_per_second, flops);
  }
  return peak;
}

}  // namespace plait
