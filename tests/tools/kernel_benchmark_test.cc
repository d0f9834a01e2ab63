#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "base/execution.h"
#include "kernels/benchmark.h"
#include "tests/support/command_line.h"
#include "tests/support/device_execution.h"
#include "tests/support/status_matchers.h"
#include "tools/kernel_limits.h"
#include "tools/kernel_timer.h"

namespace plait {
namespace {

using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

KernelSizes SmallSizes() {
  return {.tokens = 24,
          .model_dim = 16,
          .hidden_dim = 32,
          .channels = 32,
          .states = 16,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 16,
          .vocabulary = 40,
          .vocabulary_rows = 8,
          .document_tokens = 10,
          .optimizer_elements = 100};
}

std::set<std::string> TimedOperations(Execution& execution) {
  KernelTimer timer(execution, /*seconds_per_kernel=*/0, /*with_reference=*/true);
  EXPECT_OK(TimeKernels(timer, SmallSizes()));
  std::set<std::string> timed;
  for (const KernelTiming& timing : timer.timings()) {
    SCOPED_TRACE(timing.operation + " " + timing.implementation);
    EXPECT_GT(timing.work.bytes, 0);
    if (!timing.refusal.empty()) continue;
    EXPECT_GT(timing.seconds, 0);
    timed.insert(timing.operation);
  }
  return timed;
}

TEST(KernelBenchmarkTest, EveryOperationIsTimedOnTheCpu) {
  Execution execution({.num_threads = 1});
  EXPECT_EQ(TimedOperations(execution).size(), 20u);
}

// Operands and results in its memory, times by its clock.
TEST(KernelBenchmarkTest, OperationsAreTimedOnADevice) {
  EXPECT_THAT(
      TimedOperations(*CudaExecution()),
      IsSupersetOf({"matmul", "grouped_matmul", "grouped_matmul_dgrad", "grouped_weight_gradient",
                    "rms_norm_forward", "rms_norm_backward", "gated_activation_forward",
                    "gated_activation_backward", "rotary_embedding", "attention_forward",
                    "attention_backward", "token_cross_entropy", "adamw_update"}));
}

TEST(KernelBenchmarkTest, ADevicesTensorIsTheHostsAndRepeatsNoRow) {
  Execution execution;
  const Shape shape = {1200, 1024};
  ASSERT_OK_AND_ASSIGN(const Tensor host, BenchmarkTensor(execution, DType::kBf16, shape));
  ASSERT_OK_AND_ASSIGN(const Tensor device, BenchmarkTensor(*CudaExecution(), DType::kBf16, shape));
  ASSERT_OK_AND_ASSIGN(const Tensor copy, CudaExecution()->ToHost(device));
  EXPECT_EQ(std::memcmp(copy.raw(), host.raw(), host.bytes()), 0);
  EXPECT_NE(std::memcmp(host.Slice(0, 1).raw(), host.Slice(1024, 1025).raw(), 2048), 0);
}

TEST(KernelBenchmarkTest, AKernelsErrorIsTheBenchmarks) {
  const auto fail = [] { return absl::InternalError("broken"); };
  Execution execution;
  EXPECT_THAT(LeastSeconds(execution, 0, fail),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("broken")));
  EXPECT_THAT(LeastSeconds(*CudaExecution(), 0, fail),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("broken")));
}

TEST(KernelLimitsTest, TheTightestLimitCounts) {
  const KernelLimits limits{.bytes = 10, .flops = 100, .exponentials = 20, .vector_operations = 50};
  const LimitedTime copied = LeastTime({.bytes = 40, .flops = 300, .exponentials = 20}, limits);
  EXPECT_EQ(copied.limit, "copy");
  EXPECT_DOUBLE_EQ(copied.seconds, 4);
  const LimitedTime scan =
      LeastTime({.bytes = 10, .exponentials = 40, .vector_operations = 40}, limits);
  EXPECT_EQ(scan.limit, "exp");
  EXPECT_DOUBLE_EQ(scan.seconds, 2);
  EXPECT_EQ(LeastTime({.flops = 300}, limits).limit, "GEMM");
  EXPECT_EQ(LeastTime({.vector_operations = 1}, limits).limit, "f32");
}

TEST(KernelLimitsTest, AnUnknownRateLimitsNothing) {
  EXPECT_EQ(LeastTime({.flops = 300}, {.bytes = 10}).limit, "");
}

TEST(BenchCommandTest, WithoutCudaItsDeviceIsRefused) {
  for (const char* benchmark : {"kernels", "gemm"}) {
    const CommandResult result = RunCommand({"bench", benchmark, "--device", "CUDA"});
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.errors, HasSubstr("built without CUDA"));
  }
}

}  // namespace
}  // namespace plait
