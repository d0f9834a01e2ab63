#include "kernels/gated_activation.h"

#include "kernels/reference/gated_activation.h"
#include "tests/support/device_execution.h"
#include "tests/support/finite_differences.h"
#include "tests/support/random_tensor.h"
#include "tests/support/simd_targets.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

enum class RowWeight { kAbsent, kPresent };

struct Case {
  Case(int64_t rows, int64_t dim, DType dtype, RowWeight kind = RowWeight::kPresent)
      : gate(UniformTensor({rows, dim}, 1, dtype, -9, 9)),
        up(UniformTensor({rows, dim}, 2, dtype)),
        dout(UniformTensor({rows, dim}, 3, dtype)),
        out(Tensor::OnHost(dtype, {rows, dim})),
        dgate(Tensor::OnHost(dtype, {rows, dim})),
        dup(Tensor::OnHost(dtype, {rows, dim})) {
    if (kind == RowWeight::kAbsent) return;
    row_weight = UniformTensor({rows}, 4, StatisticsDType(dtype));
    drow_weight = UniformTensor({rows}, 5, StatisticsDType(dtype));
  }

  VectorView WeightView() { return row_weight ? row_weight.vector() : VectorView{}; }
  GatedActivationForwardArgs forward() {
    return {
        .gate = gate.matrix(), .up = up.matrix(), .row_weight = WeightView(), .out = out.matrix()};
  }
  GatedActivationBackwardArgs backward() {
    return {.gate = gate.matrix(),
            .up = up.matrix(),
            .row_weight = WeightView(),
            .dout = dout.matrix(),
            .dgate = dgate.matrix(),
            .dup = dup.matrix(),
            .drow_weight = drow_weight ? drow_weight.vector() : VectorView{}};
  }

  Tensor gate, up, dout, out, dgate, dup, row_weight, drow_weight;
};

TEST(GatedActivationTest, ReferenceBackwardMatchesFiniteDifferences) {
  Execution execution;
  for (const RowWeight kind : {RowWeight::kAbsent, RowWeight::kPresent}) {
    Case c(3, 5, DType::kF64, kind);
    ASSERT_OK(reference::GatedActivationBackward(execution, c.backward()));
    const auto loss = [&] {
      EXPECT_OK(reference::GatedActivationForward(execution, c.forward()));
      return WeightedSum(c.out, c.dout);
    };
    ExpectGradientMatches("gate", c.gate, c.dgate, loss);
    ExpectGradientMatches("up", c.up, c.dup, loss);
    if (kind == RowWeight::kPresent) {
      ExpectGradientMatches("row_weight", c.row_weight, c.drow_weight, loss);
    }
  }
}

// Every implementation against the reference. Odd widths leave part of a vector; 2000 are more than
// a block of the device takes at once.
void ExpectImplementationsAgree() {
  Execution execution({.num_threads = 2});
  for (const DType dtype : {DType::kBf16, DType::kF32, DType::kF64}) {
    for (const RowWeight kind : {RowWeight::kAbsent, RowWeight::kPresent}) {
      for (const int64_t dim : {1, 7, 64, 129, 2000, 2303}) {
        Case expected(11, dim, dtype, kind);
        ASSERT_OK(reference::GatedActivationForward(execution, expected.forward()));
        ASSERT_OK(reference::GatedActivationBackward(execution, expected.backward()));
        // f32 stands for f64 beside f64. A dozen f32 roundings (the exponential counts for five),
        // and one rounding of the result to either side of a tie. The slope's terms reach |gate| /
        // 4 times the result: 9 / 4.
        const double f32 = RoundingError(StatisticsDType(dtype));
        const double f32_operations = 24 * f32;
        const double output = 2 * RoundingError(dtype) + f32_operations;
        const double f32_sum = f32_operations + f32 * static_cast<double>(dim);
        for (const auto& implementation : GatedActivationForwardImplementations()) {
          SCOPED_TRACE(implementation.name);
          Case found(11, dim, dtype, kind);
          if (!implementation.accepts(found.forward()).empty()) continue;
          ASSERT_OK(RunOn(execution, implementation, found.forward()));
          ExpectClose("out", found.out, expected.out, output);
        }
        for (const auto& implementation : GatedActivationBackwardImplementations()) {
          SCOPED_TRACE(implementation.name);
          Case found(11, dim, dtype, kind);
          if (!implementation.accepts(found.backward()).empty()) continue;
          // In the memory of gate and up, as the feed-forward calls it.
          GatedActivationBackwardArgs args = found.backward();
          args.dgate = found.gate.matrix();
          args.dup = found.up.matrix();
          ASSERT_OK(RunOn(execution, implementation, args));
          ExpectClose("dgate", found.gate, expected.dgate, output);
          ExpectClose("dup", found.up, expected.dup, output);
          // The terms of the sum reach 9 each, whatever it cancels to.
          if (kind == RowWeight::kPresent)
            ExpectClose("drow_weight", found.drow_weight, expected.drow_weight, 0,
                        9 * static_cast<double>(dim) * f32_sum);
        }
      }
    }
  }
}

TEST(GatedActivationTest, ImplementationsAgreeWithTheReference) {
  ForEachSimdTarget(ExpectImplementationsAgree);
}

TEST(GatedActivationTest, LargeGatesSaturate) {
  ForEachSimdTarget([] {
    Execution execution;
    Tensor gate = Tensor::FromValues<float>({1, 4}, {-1e4f, -100.0f, 100.0f, 1e4f});
    Tensor up = Tensor::FromValues<float>({1, 4}, {2.0f, 2.0f, 2.0f, 2.0f});
    for (const auto& implementation : GatedActivationForwardImplementations()) {
      SCOPED_TRACE(implementation.name);
      Tensor out = Tensor::OnHost(DType::kF32, {1, 4});
      const GatedActivationForwardArgs args = {
          .gate = gate.matrix(), .up = up.matrix(), .out = out.matrix()};
      ASSERT_OK(RunOn(execution, implementation, args));
      EXPECT_NEAR(out.data<float>()[0], 0, 1e-30);
      EXPECT_NEAR(out.data<float>()[1], 0, 1e-30);
      EXPECT_EQ(out.data<float>()[2], 200.0f);
      EXPECT_EQ(out.data<float>()[3], 2e4f);
    }
  });
}

// gate, up and out lie beside each other, rows apart by the full width; between them is what nobody
// may touch. A width of 37 leaves part of a vector, a place of 49 aligns no row.
TEST(GatedActivationTest, TakesColumnsOfAWiderMatrix) {
  Execution execution;
  for (const auto& [dim, place] : {std::pair<int64_t, int64_t>{40, 48}, {37, 48}, {37, 49}}) {
    for (const auto& implementation : GatedActivationForwardImplementations()) {
      SCOPED_TRACE(testing::Message() << implementation.name << " " << dim << " at " << place);
      Case whole(9, dim, DType::kF32);
      ASSERT_OK(RunOn(execution, implementation, whole.forward()));
      Tensor joined = UniformTensor({9, 3 * place}, 6, DType::kF32);
      Tensor expected = joined.Clone();
      for (int64_t row = 0; row < 9; ++row) {
        for (Tensor* tensor : {&joined, &expected}) {
          float* to = tensor->data<float>() + row * 3 * place;
          std::copy_n(whole.gate.data<float>() + row * dim, dim, to);
          std::copy_n(whole.up.data<float>() + row * dim, dim, to + place);
        }
        std::copy_n(whole.out.data<float>() + row * dim, dim,
                    expected.data<float>() + (row * 3 + 2) * place);
      }
      ASSERT_OK(RunOn(execution, implementation,
                      {.gate = joined.columns(0, dim),
                       .up = joined.columns(place, dim),
                       .row_weight = whole.WeightView(),
                       .out = joined.columns(2 * place, dim)}));
      ExpectSameBits("joined", joined, expected);
    }
  }
}

TEST(GatedActivationTest, ThreadsDoNotChangeBits) {
  Execution one({.num_threads = 1}), three({.num_threads = 3});
  Case a(33, 200, DType::kBf16), b(33, 200, DType::kBf16);
  ASSERT_OK(GatedActivationForward(one, a.forward()));
  ASSERT_OK(GatedActivationForward(three, b.forward()));
  ASSERT_OK(GatedActivationBackward(one, a.backward()));
  ASSERT_OK(GatedActivationBackward(three, b.backward()));
  ExpectSameBits("out", a.out, b.out);
  ExpectSameBits("dgate", a.dgate, b.dgate);
  ExpectSameBits("dup", a.dup, b.dup);
  ExpectSameBits("drow_weight", a.drow_weight, b.drow_weight);
}

TEST(GatedActivationTest, RejectsUpOfAnotherWidth) {
  Execution execution;
  Case c(3, 8, DType::kF32);
  c.up = UniformTensor({3, 7}, 3, DType::kF32);
  EXPECT_THAT(
      GatedActivationForward(execution, c.forward()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("up: expected [3, 8], got [3, 7]")));
}

TEST(GatedActivationTest, RejectsAGradientOfAbsentRowWeights) {
  Execution execution;
  Case c(3, 8, DType::kF32, RowWeight::kAbsent);
  c.drow_weight = Tensor::OnHost(DType::kF32, {3});
  EXPECT_THAT(GatedActivationBackward(execution, c.backward()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("drow_weight")));
}

}  // namespace
}  // namespace plait
