#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "base/execution.h"
#include "kernels/benchmark.h"
#include "tests/support/command_line.h"
#include "tests/support/device_execution.h"
#include "tests/support/status_matchers.h"
#include "tools/kernel_cases.h"
#include "tools/kernel_limits.h"
#include "tools/kernel_operands.h"
#include "tools/kernel_timer.h"

namespace plait {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

std::set<std::string> TimedOperations(Execution& execution) {
  KernelTimer timer(execution, /*seconds_per_kernel=*/0, /*with_reference=*/true);
  EXPECT_OK(TimeKernels(timer, KernelSizes::Tiny()));
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
  EXPECT_EQ(TimedOperations(execution).size(), 34u);
}

// Operands and results in its memory, times by its clock.
TEST(KernelBenchmarkTest, ADeviceRunsWhatTheCpuDoes) {
  Execution execution({.num_threads = 1});
  EXPECT_EQ(TimedOperations(*CudaExecution()), TimedOperations(execution));
}

// As `plait bench kernels --device CUDA` on a GPU, whose shapes alone are larger.
TEST(KernelBenchmarkTest, EveryRowOfADeviceHasItsShareOfALimit) {
  ASSERT_NE(CudaExecution(), nullptr);
  const CommandResult result = RunCommand(
      {"bench", "kernels", "--device", "CUDA", "--shapes", "TINY", "--seconds", "0", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const auto answer = nlohmann::json::parse(result.output);
  EXPECT_EQ(answer["device"], "emulated device");
  EXPECT_GT(answer["limits"]["bytes_per_second"], 0);
  EXPECT_GT(answer["limits"]["flops_per_second"], 0);
  std::set<std::string> goals, limits;
  for (const auto& kernel : answer["kernels"]) {
    if (kernel["refusal"] != "") continue;
    SCOPED_TRACE(kernel.dump());
    EXPECT_GT(kernel["seconds"], 0);
    EXPECT_GT(kernel["share_of_limit"], 0);
    limits.insert(kernel["limit"]);
    if (kernel["goal"] > 0) goals.insert(kernel["operation"]);
  }
  EXPECT_THAT(limits, IsSupersetOf({"copy", "GEMM"}));
  EXPECT_THAT(goals, IsSupersetOf({"matmul", "grouped_weight_gradient", "rms_norm_backward",
                                   "gated_activation_forward", "causal_convolution_forward",
                                   "causal_convolution_backward", "selective_scan_forward",
                                   "selective_scan_backward", "attention_forward",
                                   "attention_backward", "linear_cross_entropy", "adamw_update"}));
}

TEST(KernelBenchmarkTest, ATableHasALineForEveryRow) {
  ASSERT_NE(CudaExecution(), nullptr);
  const CommandResult result =
      RunCommand({"bench", "kernels", "--device", "CUDA", "--shapes", "TINY", "--seconds", "0"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  EXPECT_THAT(result.output, ContainsRegex("selective_scan_forward +cuda .* % of .*, goal 75 %"));
  EXPECT_THAT(result.output, HasSubstr("emulated device: copy "));
}

TEST(KernelBenchmarkTest, MomentsAreNotZeroAndTheSecondOneIsNotNegative) {
  Execution execution;
  KernelTimer timer(execution, 0, false);
  Operands make(timer);
  const Tensor first = make.F32(1000), second = make.NotNegativeF32(1000);
  ASSERT_OK(make.status());
  const auto [least, most] = std::minmax_element(second.data<float>(), second.data<float>() + 1000);
  EXPECT_GE(*least, 0);
  EXPECT_GT(*most, 0.9f);
  EXPECT_LT(*std::min_element(first.data<float>(), first.data<float>() + 1000), -0.4f);
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

}  // namespace
}  // namespace plait
