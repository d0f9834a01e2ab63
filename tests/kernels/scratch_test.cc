// What kernels take from a device's allocator is what plans of a step's memory say. The second of
// two equal calls is looked at: copies of offsets and libraries' workspaces stay from the first.
#include "kernels/scratch.h"

#include <gtest/gtest.h>

#include <functional>
#include <utility>
#include <vector>

#include "kernels/attention.h"
#include "kernels/causal_convolution.h"
#include "kernels/cuda/library_grouped_matmul.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/expert_routing.h"
#include "kernels/matmul.h"
#include "kernels/rms_norm.h"
#include "kernels/selective_scan.h"
#include "tests/support/device_execution.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

class ScratchTest : public ::testing::TestWithParam<DType> {
 protected:
  void SetUp() override { ASSERT_NE(CudaExecution(), nullptr); }

  using Call = std::function<absl::Status(Execution&)>;
  void ExpectTaken(const KernelScratch::Blocks& planned, const Call& call) {
    Execution& execution = *CudaExecution();
    ASSERT_OK(call(execution));
    Allocator& allocator = execution.allocator();
    const size_t before = allocator.bytes_in_use();
    allocator.ResetPeak();
    ASSERT_OK(call(execution));
    ASSERT_OK(execution.compute().Synchronize());
    EXPECT_EQ(allocator.bytes_in_use(), before);
    size_t sum = 0;
    for (const int64_t bytes : planned) sum += Allocator::RoundedSize(static_cast<size_t>(bytes));
    EXPECT_EQ(allocator.bytes_in_use_peak() - before, sum);
  }

  DType dtype() const { return GetParam(); }
  DType statistics() const { return StatisticsDType(dtype()); }
  static Tensor Zeros(DType dtype, const Shape& shape) { return Tensor::OnHost(dtype, shape); }

  const std::unique_ptr<const KernelScratch> scratch_ =
      MakeKernelScratch({.device = DeviceKind::kCuda, .libraries = DeviceLibraries::kEmulated});
};

TEST_P(ScratchTest, OfProductsOfMixedDTypesAndOfThoseWithABias) {
  const Tensor wide = Zeros(statistics(), {24, 40}), narrow = Zeros(dtype(), {40, 20});
  const Tensor bias = Zeros(statistics(), {20});
  Tensor sums = Zeros(statistics(), {24, 20}), rounded = Zeros(dtype(), {24, 20});
  MatmulScratchShape shape = {
      .a = statistics(), .b = dtype(), .c = statistics(), .m = 24, .n = 20, .k = 40};
  ExpectTaken(scratch_->Matmul(shape), [&](Execution& execution) {
    return Matmul(execution, {.a = wide.matrix(), .b = narrow.matrix(), .c = sums.matrix()});
  });
  const Tensor a = Zeros(dtype(), {24, 40});
  shape.a = shape.c = dtype();
  shape.has_bias = true;
  ExpectTaken(scratch_->Matmul(shape), [&](Execution& execution) {
    return Matmul(
        execution,
        {.a = a.matrix(), .b = narrow.matrix(), .c = rounded.matrix(), .bias = bias.vector()});
  });
}

// The first are the shapes of a norm over a model's width and over its state.
TEST_P(ScratchTest, OfANormsWeightGradient) {
  for (const auto& [tokens, dim] :
       {std::pair<int64_t, int64_t>{300, 128}, {70, 16}, {3000, 8}, {9, 2048}}) {
    const Tensor x = Zeros(dtype(), {tokens, dim}), inverse_rms = Zeros(statistics(), {tokens});
    const Tensor weight = Zeros(statistics(), {dim});
    Tensor dx = Zeros(dtype(), {tokens, dim}), dweight = Zeros(statistics(), {dim});
    ExpectTaken(scratch_->RmsNormBackward(dtype(), tokens, dim), [&](Execution& execution) {
      return RmsNormBackward(execution, {.dy = x.matrix(),
                                         .r = x.matrix(),
                                         .weight = weight.vector(),
                                         .inverse_rms = inverse_rms.vector(),
                                         .dr = dx.matrix(),
                                         .dweight = dweight.vector()});
    });
  }
}

TEST_P(ScratchTest, OfColumnSums) {
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{300, 64}, {33, 16}, {700, 520}}) {
    const Tensor x = Zeros(dtype(), {rows, columns});
    Tensor sums = Zeros(statistics(), {columns});
    ExpectTaken(scratch_->ColumnSum(dtype(), rows, columns), [&](Execution& execution) {
      return ColumnSum(execution, {.x = x.matrix(), .sums = sums.vector()});
    });
  }
}

TEST_P(ScratchTest, OfTheEmbeddingsGradient) {
  const Tensor ids = Zeros(DType::kI32, {50}), dy = Zeros(dtype(), {50, 8});
  Tensor dtable = Zeros(statistics(), {300, 8});
  ExpectTaken(scratch_->EmbeddingBackward(50, 300), [&](Execution& execution) {
    return EmbeddingBackward(
        execution, {.ids = ids.data<int32_t>(), .dy = dy.matrix(), .dtable = dtable.matrix()});
  });
}

TEST_P(ScratchTest, OfTheExpertPermutation) {
  constexpr int64_t kTokens = 1500, kChoices = 2, kExperts = 24;
  const Tensor choices = Zeros(DType::kI32, {kTokens, kChoices});
  Tensor offsets = Zeros(DType::kI32, {kExperts + 1});
  Tensor row_token = Zeros(DType::kI32, {kTokens * kChoices});
  Tensor token_row = Zeros(DType::kI32, {kTokens, kChoices});
  ExpectTaken(scratch_->ExpertPermutation(kTokens * kChoices, kExperts), [&](Execution& execution) {
    return ExpertPermutation(execution, {.choices = choices.data<int32_t>(),
                                         .tokens = kTokens,
                                         .experts_per_token = kChoices,
                                         .experts = kExperts,
                                         .offsets = offsets.data<int32_t>(),
                                         .row_token = row_token.data<int32_t>(),
                                         .token_row = token_row.data<int32_t>()});
  });
}

TEST_P(ScratchTest, OfTheConvolutionsWeightGradient) {
  for (const auto& [channels, width] : {std::pair<int64_t, int64_t>{64, 4}, {24, 3}, {6, 4}}) {
    constexpr int64_t kTokens = 150;
    const std::vector<int32_t> offsets = {0, 60, kTokens};
    const Tensor x = Zeros(dtype(), {kTokens, channels});
    const Tensor weight = Zeros(statistics(), {channels, width});
    Tensor dx = Zeros(dtype(), {kTokens, channels}), dweight = Zeros(statistics(), weight.shape());
    ExpectTaken(scratch_->CausalConvolutionBackward(dtype(), kTokens, channels, width),
                [&](Execution& execution) {
                  return CausalConvolutionBackward(execution, {.x = x.matrix(),
                                                               .weight = weight.matrix(),
                                                               .documents = 2,
                                                               .document_offsets = offsets.data(),
                                                               .dy = x.matrix(),
                                                               .dx = dx.matrix(),
                                                               .dweight = dweight.matrix()});
                });
  }
}

// Shapes of one segment and of several, with states in registers and in shared memory.
TEST_P(ScratchTest, OfTheScan) {
  struct Sizes {
    int64_t tokens, channels, states;
  };
  for (const Sizes& sizes : {Sizes{40, 32, 16}, {200, 40, 16}, {130, 130, 5}}) {
    const auto [tokens, channels, states] = sizes;
    const std::vector<int32_t> offsets = {0, 30, static_cast<int32_t>(tokens)};
    const Tensor x = Zeros(dtype(), {tokens, channels}), b = Zeros(dtype(), {tokens, states});
    const Tensor a_log = Zeros(statistics(), {channels, states});
    const Tensor d = Zeros(statistics(), {channels});
    const SelectiveScanInputs in = {.x = x.matrix(),
                                    .dt = x.matrix(),
                                    .z = x.matrix(),
                                    .b = b.matrix(),
                                    .c = b.matrix(),
                                    .a_log = a_log.matrix(),
                                    .d = d.vector(),
                                    .dt_bias = d.vector(),
                                    .documents = 2,
                                    .document_offsets = offsets.data()};
    const ScanScratchShape shape = {
        .dtype = dtype(), .tokens = tokens, .channels = channels, .states = states};
    Tensor y = Zeros(dtype(), x.shape());
    Tensor checkpoints =
        Zeros(statistics(), {NumSelectiveScanCheckpoints(tokens) * states, channels});
    ExpectTaken(scratch_->SelectiveScanForward(shape), [&](Execution& execution) {
      return SelectiveScanForward(execution,
                                  {.in = in, .y = y.matrix(), .checkpoints = checkpoints.matrix()});
    });
    Tensor dx = Zeros(dtype(), x.shape()), ddt = Zeros(dtype(), x.shape());
    Tensor dz = Zeros(dtype(), x.shape());
    Tensor db = Zeros(dtype(), b.shape()), dc = Zeros(dtype(), b.shape());
    Tensor da_log = Zeros(statistics(), a_log.shape());
    Tensor dd = Zeros(statistics(), d.shape()), ddt_bias = Zeros(statistics(), d.shape());
    ExpectTaken(scratch_->SelectiveScanBackward(shape), [&](Execution& execution) {
      return SelectiveScanBackward(execution, {.in = in,
                                               .checkpoints = std::as_const(checkpoints).matrix(),
                                               .dy = std::as_const(y).matrix(),
                                               .dx = dx.matrix(),
                                               .ddt = ddt.matrix(),
                                               .dz = dz.matrix(),
                                               .db = db.matrix(),
                                               .dc = dc.matrix(),
                                               .da_log = da_log.matrix(),
                                               .dd = dd.vector(),
                                               .ddt_bias = ddt_bias.vector()});
    });
  }
}

// By plait's own kernels.
TEST_P(ScratchTest, OfAttention) {
  if (dtype() == DType::kBf16 && !cuda::IsEmulated()) GTEST_SKIP() << "bf16 may go to cuDNN";
  constexpr int64_t kTokens = 70, kHeads = 4, kKvHeads = 2, kHeadDim = 8;
  const std::vector<int32_t> offsets = {0, 35, kTokens};
  const AttentionLayout layout = {.heads = kHeads,
                                  .kv_heads = kKvHeads,
                                  .head_dim = kHeadDim,
                                  .scale = 0.35,
                                  .documents = 2,
                                  .query_offsets = offsets.data(),
                                  .key_offsets = offsets.data()};
  const Tensor q = Zeros(dtype(), {kTokens, kHeads * kHeadDim});
  const Tensor k = Zeros(dtype(), {kTokens, kKvHeads * kHeadDim});
  Tensor out = Zeros(dtype(), q.shape()), log_sum_exp = Zeros(statistics(), {kHeads, kTokens});
  const AttentionScratchShape shape = {.dtype = dtype(),
                                       .result = dtype(),
                                       .heads = kHeads,
                                       .kv_heads = kKvHeads,
                                       .head_dim = kHeadDim,
                                       .documents = 2,
                                       .document_tokens = 35,
                                       .queries = kTokens};
  ExpectTaken(scratch_->AttentionForward(shape), [&](Execution& execution) {
    return AttentionForward(execution, {.layout = layout,
                                        .q = q.matrix(),
                                        .k = k.matrix(),
                                        .v = k.matrix(),
                                        .out = out.matrix(),
                                        .log_sum_exp = log_sum_exp.matrix()});
  });
  Tensor dq = Zeros(dtype(), q.shape()), dk = Zeros(dtype(), k.shape());
  Tensor dv = Zeros(dtype(), k.shape());
  ExpectTaken(scratch_->AttentionBackward(shape), [&](Execution& execution) {
    return AttentionBackward(execution, {.layout = layout,
                                         .q = q.matrix(),
                                         .k = k.matrix(),
                                         .v = k.matrix(),
                                         .out = std::as_const(out).matrix(),
                                         .log_sum_exp = std::as_const(log_sum_exp).matrix(),
                                         .dout = std::as_const(out).matrix(),
                                         .dq = dq.matrix(),
                                         .dk = dk.matrix(),
                                         .dv = dv.matrix()});
  });
}

TEST_P(ScratchTest, OfCoarseGroups) {
  constexpr int64_t kRows = 12, kInner = 24, kColumns = 16;
  const std::vector<int32_t> offsets = {0, 5, kRows};
  const Tensor tokens = Zeros(dtype(), {8, kInner}), index = Zeros(DType::kI32, {kRows});
  const Tensor weights = Zeros(dtype(), {2 * kColumns, kInner});
  Tensor c = Zeros(dtype(), {kRows, kColumns});
  ExpectTaken(cuda::LibraryGroupedScratch({.operands = dtype(),
                                           .c = dtype(),
                                           .groups = 2,
                                           .rows = kRows,
                                           .columns = kColumns,
                                           .inner = kInner,
                                           .is_gathered = true}),
              [&](Execution& execution) {
                return cuda::LibraryGroupedMatmul(execution, {.a = tokens.matrix(),
                                                              .row_index = index.data<int32_t>(),
                                                              .offsets = offsets.data(),
                                                              .groups = 2,
                                                              .b = weights.matrix(),
                                                              .transpose_b = Transpose::kYes,
                                                              .c = c.matrix()});
              });
}

INSTANTIATE_TEST_SUITE_P(AllDTypes, ScratchTest,
                         ::testing::Values(DType::kBf16, DType::kF32, DType::kF64),
                         [](const auto& dtype) { return std::string(Name(dtype.param)); });

// A plan of a GPU counts what its libraries are asked for, where they take over.
TEST(DeviceScratchTest, CountsWhatLibrariesAreAskedFor) {
  const auto present = MakeKernelScratch({.device = DeviceKind::kCuda});
  const auto emulated =
      MakeKernelScratch({.device = DeviceKind::kCuda, .libraries = DeviceLibraries::kEmulated});
  EXPECT_EQ(present->Kept(), KernelScratch::Blocks{32 << 20});
  EXPECT_TRUE(emulated->Kept().empty());
  AttentionScratchShape attention = {.dtype = DType::kBf16,
                                     .result = DType::kBf16,
                                     .heads = 32,
                                     .kv_heads = 8,
                                     .head_dim = 128,
                                     .documents = 1,
                                     .document_tokens = 4096,
                                     .queries = 4096};
  const int64_t sums = 4 * 4096 * 32;
  EXPECT_EQ(present->AttentionForward(attention), KernelScratch::Blocks{sums});
  // Gradients of scores in bf16, sums, and dk and dv of 32 heads in bf16.
  const int64_t scores = int64_t{2} * 32 * 4096 * 4096, shared = 2 * 2 * 4096 * 32 * 128;
  EXPECT_EQ(present->AttentionBackward(attention),
            (KernelScratch::Blocks{sums, scores + sums + shared}));
  EXPECT_EQ(emulated->AttentionBackward(attention), KernelScratch::Blocks{sums});
  // Not rounded, or too long for one key head: plait's own kernels.
  attention.result = DType::kF32;
  EXPECT_EQ(present->AttentionBackward(attention), KernelScratch::Blocks{sums});
  attention.result = DType::kBf16;
  attention.document_tokens = attention.queries = 1 << 18;
  EXPECT_EQ(present->AttentionBackward(attention), KernelScratch::Blocks{4 * 32 << 18});

  // Fine groups of gathered rows are copied for CUTLASS, at most 8192 of coarse ones for cuBLASLt.
  GroupedScratchShape groups = {.operands = DType::kBf16,
                                .c = DType::kBf16,
                                .groups = 16,
                                .rows = 16384,
                                .columns = 1024,
                                .inner = 512,
                                .is_gathered = true};
  EXPECT_EQ(present->GroupedMatmul(groups), KernelScratch::Blocks{16384 * 512 * 2});
  EXPECT_TRUE(emulated->GroupedMatmul(groups).empty());
  EXPECT_TRUE(present->GroupedWeightGradient(groups).empty());
  groups.columns = groups.inner = 4096;
  EXPECT_EQ(present->GroupedMatmul(groups), KernelScratch::Blocks{8192 * 4096 * 2});
  EXPECT_EQ(present->GroupedWeightGradient(groups), KernelScratch::Blocks{8192 * 4096 * 2});
}

}  // namespace
}  // namespace plait
