#include "tools/kernel_limits.h"

#include <map>

#include "base/status_macros.h"
#include "kernels/benchmark.h"
#include "kernels/gemm_peak.h"

namespace plait {
namespace {

// A second on an H100 or H200 (SXM): 132 multiprocessors at 1.755 GHz under load, each of 16
// exponentials and 128 multiply-adds a clock.
constexpr double kClocks = 132 * 1.755e9;
constexpr double kExponentials = 16 * kClocks;
constexpr double kVectorOperations = 128 * kClocks;

}  // namespace

absl::StatusOr<KernelLimits> MeasureKernelLimits(Execution& execution) {
  constexpr double kSeconds = 0.1;
  const int64_t copied =
      execution.runtime()->MemoryBytes() > (size_t{32} << 30) ? 1 << 30 : 1 << 20;
  KernelLimits limits{.exponentials = kExponentials, .vector_operations = kVectorOperations};
  {
    PLAIT_ASSIGN_OR_RETURN(const Tensor from,
                           BenchmarkTensor(execution, DType::kBf16, {copied / 2}));
    Tensor to = execution.Empty(DType::kBf16, {copied / 2});
    PLAIT_ASSIGN_OR_RETURN(const double seconds, LeastSeconds(execution, kSeconds, [&] {
                             return execution.Copy(from, to);
                           }));
    limits.bytes = 2 * static_cast<double>(copied) / seconds;
  }
  const absl::StatusOr<GemmPeak> peak = MeasureGemmPeak(execution, DType::kBf16, kSeconds);
  if (peak.ok()) {
    limits.flops = peak->best_flops_per_second;
  } else if (peak.status().code() != absl::StatusCode::kUnimplemented) {
    return peak.status();
  }
  execution.allocator().Trim();
  return limits;
}

LimitedTime LeastTime(const KernelWork& work, const KernelLimits& limits) {
  LimitedTime least;
  const auto consider = [&](const char* limit, double amount, double rate) {
    if (amount <= 0 || rate <= 0 || amount / rate <= least.seconds) return;
    least = {limit, amount / rate};
  };
  consider("copy", work.bytes, limits.bytes);
  consider("GEMM", work.flops, limits.flops);
  consider("exp", work.exponentials, limits.exponentials);
  consider("f32", work.vector_operations, limits.vector_operations);
  return least;
}

double GoalOfKernel(const std::string& operation) {
  // Attention: what cuDNN 9.19 reaches on documents of 8192 tokens, of 798 TFLOP/s.
  static const auto& goals = *new std::map<std::string, double>{
      {"matmul", 0.95},
      {"matmul_dgrad", 0.95},
      {"matmul_weight_gradient", 0.95},
      {"grouped_matmul", 0.93},
      {"grouped_matmul_dgrad", 0.93},
      {"grouped_weight_gradient", 0.90},
      {"rms_norm_forward", 0.92},
      {"rms_norm_backward", 0.87},
      {"gated_activation_forward", 0.90},
      {"gated_activation_backward", 0.90},
      {"rotary_embedding", 0.90},
      {"causal_convolution_forward", 0.88},
      {"causal_convolution_backward", 0.80},
      {"selective_scan_forward", 0.75},
      {"selective_scan_backward", 0.60},
      {"attention_forward", 0.81},
      {"attention_backward", 0.68},
      {"linear_cross_entropy", 0.85},
      {"adamw_update", 0.92},
  };
  const auto found = goals.find(operation);
  return found == goals.end() ? 0 : found->second;
}

}  // namespace plait
