#include "kernels/rms_norm.h"

#include "kernels/reference/rms_norm.h"
#include "tests/support/device_execution.h"
#include "tests/support/finite_differences.h"
#include "tests/support/random_tensor.h"
#include "tests/support/simd_targets.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

struct Case {
  Case(int64_t tokens, int64_t dim, DType dtype, DType weight_dtype)
      : x(UniformTensor({tokens, dim}, 1, dtype)),
        residual(UniformTensor({tokens, dim}, 2, dtype)),
        weight(UniformTensor({dim}, 3, weight_dtype, 0.5, 1.5)),
        dy(UniformTensor({tokens, dim}, 4, dtype)),
        dr_in(UniformTensor({tokens, dim}, 5, dtype)),
        sum(Tensor::OnHost(dtype, {tokens, dim})),
        y(Tensor::OnHost(dtype, {tokens, dim})),
        inverse_rms(Tensor::OnHost(StatisticsDType(dtype), {tokens})),
        square_sum(Tensor::OnHost(StatisticsDType(dtype), {tokens})),
        absolute_max(Tensor::OnHost(StatisticsDType(dtype), {tokens})),
        dr(Tensor::OnHost(dtype, {tokens, dim})),
        dweight(UniformTensor({dim}, 6, StatisticsDType(dtype))) {}

  RmsNormForwardArgs forward() {
    return {.x = x.matrix(),
            .residual = residual.matrix(),
            .weight = weight.vector(),
            .sum = sum.matrix(),
            .y = y.matrix(),
            .inverse_rms = inverse_rms.vector(),
            .activation_square_sum = square_sum.vector(),
            .activation_absolute_max = absolute_max.vector()};
  }
  RmsNormBackwardArgs backward() {
    return {.dy = dy.matrix(),
            .r = sum.matrix(),
            .weight = weight.vector(),
            .inverse_rms = inverse_rms.vector(),
            .dr_in = dr_in.matrix(),
            .dr = dr.matrix(),
            .dweight = dweight.vector()};
  }

  Tensor x, residual, weight, dy, dr_in, sum, y, inverse_rms, square_sum, absolute_max, dr, dweight;
};

TEST(RmsNormTest, ReferenceBackwardMatchesFiniteDifferences) {
  Execution execution;
  Case c(3, 5, DType::kF64, DType::kF64);
  c.dweight.FillZero();
  ASSERT_OK(reference::RmsNormForward(execution, c.forward()));
  ASSERT_OK(reference::RmsNormBackward(execution, c.backward()));
  const Tensor dr = c.dr.Clone(), dweight = c.dweight.Clone();
  const auto loss = [&] {
    EXPECT_OK(reference::RmsNormForward(execution, c.forward()));
    return WeightedSum(c.y, c.dy) + WeightedSum(c.sum, c.dr_in);
  };
  ExpectGradientMatches("x", c.x, dr, loss);
  ExpectGradientMatches("residual", c.residual, dr, loss);
  ExpectGradientMatches("weight", c.weight, dweight, loss);
}

// Every implementation against the reference. Odd widths leave part of a vector.
void ExpectImplementationsAgree(int64_t tokens, int64_t dim, DType dtype, DType weight_dtype) {
  SCOPED_TRACE(testing::Message() << tokens << " x " << dim << " " << Name(dtype));
  Execution execution({.num_threads = 2});
  Case expected(tokens, dim, dtype, weight_dtype);
  ASSERT_OK(reference::RmsNormForward(execution, expected.forward()));
  ASSERT_OK(reference::RmsNormBackward(execution, expected.backward()));
  // Sums of `dim` terms (dweight: of `tokens`) in f32, or f64 beside f64, and one rounding of the
  // result to either side of a tie.
  double largest_inverse_rms = 0;
  const Tensor inverse_rms = expected.inverse_rms.Converted(DType::kF64);
  for (const double s : inverse_rms.values<double>())
    largest_inverse_rms = std::max(largest_inverse_rms, s);
  const double sum =
      RoundingError(StatisticsDType(dtype)) * static_cast<double>(std::max(dim, tokens) + 16);
  const double output = 2 * RoundingError(dtype) + 4 * sum;
  for (const auto& implementation : RmsNormForwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case found(tokens, dim, dtype, weight_dtype);
    if (!implementation.accepts(found.forward()).empty()) continue;
    ASSERT_OK(RunOn(execution, implementation, found.forward()));
    ExpectSameBits("sum", found.sum, expected.sum);
    ExpectClose("y", found.y, expected.y, output);
    ExpectClose("inverse_rms", found.inverse_rms, expected.inverse_rms, sum);
    ExpectClose("square_sum", found.square_sum, expected.square_sum, sum);
    ExpectClose("absolute_max", found.absolute_max, expected.absolute_max, sum);
  }
  for (const auto& implementation : RmsNormBackwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case found(tokens, dim, dtype, weight_dtype);
    if (!implementation.accepts(found.backward()).empty()) continue;
    ASSERT_OK(reference::RmsNormForward(execution, found.forward()));
    ASSERT_OK(RunOn(execution, implementation, found.backward()));
    // The two terms of dr nearly cancel where dim is small: the bound is that of the terms, up
    // to |dy| max s.
    ExpectClose("dr", found.dr, expected.dr, output, 8 * sum * largest_inverse_rms);
    ExpectClose("dweight", found.dweight, expected.dweight, 4 * sum);
  }
}

void ExpectNarrowRowsAgree() {
  for (const auto& [dtype, weight_dtype] : {std::pair{DType::kBf16, DType::kBf16},
                                            {DType::kBf16, DType::kF32},
                                            {DType::kF32, DType::kF32},
                                            {DType::kF64, DType::kF64}}) {
    for (const int64_t dim : {1, 7, 64, 129})
      ExpectImplementationsAgree(9, dim, dtype, weight_dtype);
  }
}

TEST(RmsNormTest, ImplementationsAgreeWithTheReference) {
  ForEachSimdTarget(ExpectNarrowRowsAgree);
}

// What a device's threads share out differently: more rows than its blocks take at once, rows of
// one warp and of several, whole or not, and rows that no block holds.
TEST(RmsNormTest, ManyAndWideRowsAgreeWithTheReference) {
  ExpectImplementationsAgree(2200, 8, DType::kBf16, DType::kF32);
  ExpectImplementationsAgree(1060, 260, DType::kF64, DType::kF64);
  for (const DType dtype : {DType::kBf16, DType::kF32, DType::kF64}) {
    for (const int64_t dim : {512, 1024, 1032, 3000})
      ExpectImplementationsAgree(3, dim, dtype, dtype);
    ExpectImplementationsAgree(2, 16384, dtype, dtype);
    ExpectImplementationsAgree(2, 16392, dtype, dtype);
    ExpectImplementationsAgree(2, 16393, dtype, dtype);
  }
  // Blocks with several rows each, none of which they hold.
  ExpectImplementationsAgree(266, 4100, DType::kF64, DType::kF64);
}

// Columns of wider matrices: rows aligned and not, whole vectors and part of one, sums and
// gradients in the memory of what they replace; nothing beside the columns is touched.
TEST(RmsNormTest, TakesColumnsOfWiderMatrices) {
  Execution execution;
  for (const auto& [dim, begin] : {std::pair<int64_t, int64_t>{32, 32}, {29, 32}, {29, 33}}) {
    const auto forward = [&, dim = dim, begin = begin](Case& c) {
      RmsNormForwardArgs args = c.forward();
      args.x = c.x.columns(begin, dim);
      args.residual = c.residual.columns(begin, dim);
      args.sum = c.residual.columns(begin, dim);
      args.y = c.y.columns(begin, dim);
      args.weight.size = dim;
      return args;
    };
    const auto backward = [&, dim = dim, begin = begin](Case& c) {
      RmsNormBackwardArgs args = c.backward();
      args.dy = c.dy.columns(begin, dim);
      args.r = c.x.columns(begin, dim);
      args.dr_in = c.dr_in.columns(begin, dim);
      args.dr = c.dr_in.columns(begin, dim);
      args.weight.size = args.dweight.size = dim;
      return args;
    };
    Case expected(19, 64, DType::kF32, DType::kF32);
    ASSERT_OK(reference::RmsNormForward(execution, forward(expected)));
    ASSERT_OK(reference::RmsNormBackward(execution, backward(expected)));
    const double bound = RoundingError(DType::kF32) * 8 * 64;  // as above, of 64 terms
    for (const auto& implementation : RmsNormForwardImplementations()) {
      SCOPED_TRACE(testing::Message() << implementation.name << " " << dim << " at " << begin);
      Case found(19, 64, DType::kF32, DType::kF32);
      ASSERT_OK(RunOn(execution, implementation, forward(found)));
      ExpectSameBits("sum", found.residual, expected.residual);
      ExpectClose("y", found.y, expected.y, bound);
    }
    for (const auto& implementation : RmsNormBackwardImplementations()) {
      SCOPED_TRACE(testing::Message() << implementation.name << " " << dim << " at " << begin);
      Case found(19, 64, DType::kF32, DType::kF32);
      found.inverse_rms = expected.inverse_rms.Clone();
      ASSERT_OK(RunOn(execution, implementation, backward(found)));
      ExpectClose("dr", found.dr_in, expected.dr_in, bound);
      ExpectClose("dweight", found.dweight, expected.dweight, bound);
    }
  }
}

TEST(RmsNormTest, ThreadsDoNotChangeBits) {
  Execution one({.num_threads = 1}), two({.num_threads = 2});
  Case a(33, 200, DType::kBf16, DType::kF32), b(33, 200, DType::kBf16, DType::kF32);
  ASSERT_OK(RmsNormForward(one, a.forward()));
  ASSERT_OK(RmsNormForward(two, b.forward()));
  ASSERT_OK(RmsNormBackward(one, a.backward()));
  ASSERT_OK(RmsNormBackward(two, b.backward()));
  ExpectSameBits("y", a.y, b.y);
  ExpectSameBits("dr", a.dr, b.dr);
  ExpectSameBits("dweight", a.dweight, b.dweight);
}

TEST(RmsNormTest, RejectsWeightOfAnotherWidth) {
  Execution execution;
  Case c(3, 8, DType::kF32, DType::kF32);
  c.weight = UniformTensor({7}, 3, DType::kF32);
  EXPECT_THAT(
      RmsNormForward(execution, c.forward()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("weight: expected width 8, got 7")));
}

TEST(RmsNormTest, RefusesF16ByName) {
  Execution execution;
  Case c(3, 8, DType::kF32, DType::kF32);
  c.weight = Tensor::OnHost(DType::kF16, {8});
  EXPECT_THAT(
      RmsNormForward(execution, c.forward()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("weight: f16 is for storage only")));
}

}  // namespace
}  // namespace plait
