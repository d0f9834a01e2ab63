#include "kernels/causal_convolution.h"

#include <limits>
#include <vector>

#include "kernels/reference/causal_convolution.h"
#include "tests/support/device_execution.h"
#include "tests/support/document_segments.h"
#include "tests/support/finite_differences.h"
#include "tests/support/random_tensor.h"
#include "tests/support/simd_targets.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

struct Case {
  Case(int64_t channels, int64_t width, const std::vector<int32_t>& document_offsets, DType dtype,
       double scale = 1.0)
      : offsets(document_offsets),
        inner(StatisticsDType(dtype)),
        x(UniformTensor({tokens(), channels}, 1, dtype, -scale, scale)),
        weight(UniformTensor({channels, width}, 2, dtype)),
        bias(UniformTensor({channels}, 3, dtype)),
        dy(UniformTensor({tokens(), channels}, 4, dtype)),
        y(Tensor::OnHost(dtype, {tokens(), channels})),
        initial_state(UniformTensor({documents() * (width - 1), channels}, 5, dtype)),
        final_state(Tensor::OnHost(dtype, {documents() * (width - 1), channels})),
        dx(Tensor::OnHost(dtype, {tokens(), channels})),
        dweight(UniformTensor({channels, width}, 6, inner)),
        dbias(UniformTensor({channels}, 7, inner)),
        dfinal_state(UniformTensor({documents() * (width - 1), channels}, 8, inner)),
        dinitial_state(Tensor::OnHost(inner, {documents() * (width - 1), channels})) {}

  int64_t tokens() const { return offsets.back(); }
  int64_t documents() const { return static_cast<int64_t>(offsets.size()) - 1; }

  CausalConvolutionForwardArgs forward() {
    return {.x = x.matrix(),
            .weight = weight.matrix(),
            .bias = bias.vector(),
            .documents = documents(),
            .document_offsets = offsets.data(),
            .y = y.matrix()};
  }
  CausalConvolutionForwardArgs continuation() {
    CausalConvolutionForwardArgs args = forward();
    args.initial_state = initial_state.matrix();
    args.final_state = final_state.matrix();
    return args;
  }
  CausalConvolutionBackwardArgs backward() {
    return {.x = x.matrix(),
            .weight = weight.matrix(),
            .bias = bias.vector(),
            .documents = documents(),
            .document_offsets = offsets.data(),
            .dy = dy.matrix(),
            .dx = dx.matrix(),
            .dweight = dweight.matrix(),
            .dbias = dbias.vector()};
  }
  CausalConvolutionBackwardArgs backward_of_continuation() {
    CausalConvolutionBackwardArgs args = backward();
    args.initial_state = initial_state.matrix();
    args.dfinal_state = dfinal_state.matrix();
    args.dinitial_state = dinitial_state.matrix();
    return args;
  }

  std::vector<int32_t> offsets;
  DType inner;
  Tensor x, weight, bias, dy, y, initial_state, final_state, dx, dweight, dbias, dfinal_state,
      dinitial_state;
};

TEST(CausalConvolutionTest, ReferenceBackwardMatchesFiniteDifferences) {
  Execution execution;
  Case c(3, 4, {0, 1, 3, 9, 20}, DType::kF64);
  c.dweight.FillZero();
  c.dbias.FillZero();
  ASSERT_OK(reference::CausalConvolutionBackward(execution, c.backward()));
  const auto loss = [&] {
    EXPECT_OK(reference::CausalConvolutionForward(execution, c.forward()));
    return WeightedSum(c.y, c.dy);
  };
  ExpectGradientMatches("x", c.x, c.dx, loss);
  ExpectGradientMatches("weight", c.weight, c.dweight, loss);
  ExpectGradientMatches("bias", c.bias, c.dbias, loss);
}

// Documents shorter than the history, and one without tokens: gradients pass through the state.
TEST(CausalConvolutionTest, ReferenceStateGradientsMatchFiniteDifferences) {
  Execution execution;
  Case c(3, 4, {0, 1, 3, 3, 9, 20}, DType::kF64);
  c.dweight.FillZero();
  c.dbias.FillZero();
  ASSERT_OK(reference::CausalConvolutionBackward(execution, c.backward_of_continuation()));
  const auto loss = [&] {
    EXPECT_OK(reference::CausalConvolutionForward(execution, c.continuation()));
    return WeightedSum(c.y, c.dy) + WeightedSum(c.final_state, c.dfinal_state);
  };
  ExpectGradientMatches("x", c.x, c.dx, loss);
  ExpectGradientMatches("initial_state", c.initial_state, c.dinitial_state, loss);
  ExpectGradientMatches("weight", c.weight, c.dweight, loss);
  ExpectGradientMatches("bias", c.bias, c.dbias, loss);
}

// Every implementation against the reference.
void ExpectAgreement(const std::vector<int32_t>& offsets, int64_t channels, int64_t width,
                     DType dtype, double scale = 1.0) {
  SCOPED_TRACE(testing::Message() << offsets.back() << " tokens, " << channels << " channels, "
                                  << width << " taps, " << Name(dtype));
  Execution execution({.num_threads = 1});
  const auto make = [&] { return Case(channels, width, offsets, dtype, scale); };
  Case expected = make(), continued = make();
  ASSERT_OK(reference::CausalConvolutionForward(execution, continued.continuation()));
  ASSERT_OK(reference::CausalConvolutionBackward(execution, continued.backward_of_continuation()));
  ASSERT_OK(reference::CausalConvolutionForward(execution, expected.forward()));
  ASSERT_OK(reference::CausalConvolutionBackward(execution, expected.backward()));
  // A sum of `width` products of size up to `scale`, then SiLU, each a few roundings of the inner
  // precision.
  const double rounding = RoundingError(expected.inner);
  const double inner = rounding * (16 + 4 * static_cast<double>(width)) * std::max(1.0, scale);
  const double output = 2 * RoundingError(dtype) + inner;
  const double over_tokens = inner + rounding * static_cast<double>(offsets.back());
  for (const auto& implementation : CausalConvolutionForwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case found = make();
    if (!implementation.accepts(found.forward()).empty()) continue;
    ASSERT_OK(RunOn(execution, implementation, found.continuation()));
    ExpectClose("y continued", found.y, continued.y, output);
    ExpectSameBits("final_state", found.final_state, continued.final_state);
    ASSERT_OK(RunOn(execution, implementation, found.forward()));
    ExpectClose("y", found.y, expected.y, output);
  }
  for (const auto& implementation : CausalConvolutionBackwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case found = make();
    if (!implementation.accepts(found.backward()).empty()) continue;
    ASSERT_OK(RunOn(execution, implementation, found.backward()));
    ExpectClose("dx", found.dx, expected.dx, output);
    ExpectClose("dweight", found.dweight, expected.dweight, over_tokens);
    ExpectClose("dbias", found.dbias, expected.dbias, over_tokens);
    for (const bool in_place : {false, true}) {
      Case again = make();
      CausalConvolutionBackwardArgs args = again.backward_of_continuation();
      if (in_place) args.dinitial_state = again.dfinal_state.matrix();
      ASSERT_OK(RunOn(execution, implementation, args));
      ExpectClose("dx continued", again.dx, continued.dx, output);
      ExpectClose("dinitial_state", in_place ? again.dfinal_state : again.dinitial_state,
                  continued.dinitial_state, inner);
      ExpectClose("dweight continued", again.dweight, continued.dweight, over_tokens);
      ExpectClose("dbias continued", again.dbias, continued.dbias, over_tokens);
    }
  }
}

TEST(CausalConvolutionTest, ImplementationsAgreeWithTheReference) {
  ForEachSimdTarget([] {
    for (const DType dtype : {DType::kF32, DType::kBf16}) {
      for (const int64_t channels : {1, 5, 32, 70}) {
        for (const int64_t width : {1, 2, 3, 4}) {
          for (const auto& offsets : std::vector<std::vector<int32_t>>{
                   {0, 1}, {0, 31}, {0, 32, 33}, {0, 1, 3, 3, 6, 64, 150}}) {
            ExpectAgreement(offsets, channels, width, dtype);
          }
        }
      }
    }
    ExpectAgreement({0, 2, 40}, 7, 4, DType::kF32, /*scale=*/100);
  });
}

TEST(CausalConvolutionTest, WiderKernelsRunToo) {
  for (const DType dtype : {DType::kBf16, DType::kF32, DType::kF64}) {
    ExpectAgreement({0, 3, 3, 20, 90}, 5, 7, dtype);
  }
}

TEST(CausalConvolutionTest, ImplementationsAgreeInF64) {
  for (const int64_t channels : {3, 8}) {
    for (const int64_t width : {1, 3, 4}) {
      ExpectAgreement({0, 1, 3, 3, 6, 64, 150}, channels, width, DType::kF64);
    }
  }
}

// Runs of tokens that start inside documents, right at their starts and within a history of them,
// channels in whole packs and in more than one block.
TEST(CausalConvolutionTest, ImplementationsAgreeOverManyRuns) {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    ExpectAgreement({0, 30, 32, 33, 33, 65, 66, 94, 96, 127, 129, 400}, 48, 4, dtype);
    ExpectAgreement({0, 0, 130, 131, 131}, 264, 4, dtype);
  }
}

// Rows of a wider matrix: x and y begin at an element that no pack may begin at, or have a stride
// that packs do not divide.
TEST(CausalConvolutionTest, RowsOfAWiderMatrixGiveTheSameBits) {
  constexpr int64_t kChannels = 16;
  Execution execution;
  for (const auto& implementation : CausalConvolutionForwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case whole(kChannels, 4, {0, 5, 100}, DType::kBf16);
    ASSERT_OK(RunOn(execution, implementation, whole.forward()));
    for (const auto& [begin, stride] : {std::pair{1, 40}, {8, 40}, {0, 17}}) {
      Tensor x = Tensor::OnHost(DType::kBf16, {100, stride}), y = x.Clone();
      for (int64_t t = 0; t < 100; ++t) {
        std::copy_n(whole.x.data<BFloat16>() + t * kChannels, kChannels,
                    x.data<BFloat16>() + t * stride + begin);
      }
      CausalConvolutionForwardArgs args = whole.forward();
      args.x = x.columns(begin, kChannels);
      args.y = y.columns(begin, kChannels);
      ASSERT_OK(RunOn(execution, implementation, args));
      Tensor found = Tensor::OnHost(DType::kBf16, {100, kChannels});
      for (int64_t t = 0; t < 100; ++t) {
        std::copy_n(y.data<BFloat16>() + t * stride + begin, kChannels,
                    found.data<BFloat16>() + t * kChannels);
      }
      ExpectSameBits("y", found, whole.y);
    }
  }
}

TEST(CausalConvolutionTest, StatePassedBetweenCallsContinuesBitForBit) {
  ForEachSimdTarget([] {
    Execution execution;
    Case whole(37, 4, {0, 150}, DType::kBf16);
    ASSERT_OK(CausalConvolutionForward(execution, whole.continuation()));
    Tensor state = whole.initial_state.Clone();
    for (const auto& [begin, end] : {std::pair{0, 100}, {100, 101}, {101, 103}, {103, 150}}) {
      Case piece(37, 4, {0, end - begin}, DType::kBf16);
      piece.x = CopyOfRows(whole.x, begin, end);
      CausalConvolutionForwardArgs args = piece.continuation();
      args.initial_state = state.matrix();
      args.final_state = state.matrix();  // the same memory
      ASSERT_OK(CausalConvolutionForward(execution, args));
      ExpectSameBits("y", piece.y, CopyOfRows(whole.y, begin, end));
    }
    ExpectSameBits("state", state, whole.final_state);
  });
}

// A packed sequence in segments that end inside documents, states and their gradients passed on,
// equals one call.
TEST(CausalConvolutionTest, SegmentsWithPassedStatesEqualOneCall) {
  Execution execution;
  constexpr int64_t kChannels = 3, kWidth = 4, kHistory = kWidth - 1;
  Case whole(kChannels, kWidth, {0, 2, 30, 31, 60}, DType::kF64);
  ASSERT_OK(CausalConvolutionForward(execution, whole.forward()));
  ASSERT_OK(CausalConvolutionBackward(execution, whole.backward()));
  for (const auto& cuts : std::vector<std::vector<int32_t>>{
           {20}, {30}, {1, 31}, {10, 11, 12, 13}, {1, 2, 3, 4, 5, 29, 32, 58, 59}}) {
    SCOPED_TRACE(testing::PrintToString(cuts));
    const std::vector<DocumentSegment> segments = CutIntoSegments(whole.offsets, cuts);
    std::vector<Case> cases;
    Tensor y = Tensor::OnHost(DType::kF64, whole.y.shape()), dx = y.Clone();
    for (const DocumentSegment& segment : segments) {
      Case& c = cases.emplace_back(kChannels, kWidth, segment.offsets, DType::kF64);
      c.x = CopyOfRows(whole.x, segment.begin, segment.end);
      c.dy = CopyOfRows(whole.dy, segment.begin, segment.end);
      c.initial_state.FillZero();
      if (segment.continues_before) {
        const Tensor& states = cases[cases.size() - 2].final_state;
        const int64_t rows = states.shape()[0];
        SetRows(CopyOfRows(states, rows - kHistory, rows), c.initial_state, 0);
      }
      ASSERT_OK(CausalConvolutionForward(execution, c.continuation()));
      SetRows(c.y, y, segment.begin);
    }
    Tensor dweight = UniformTensor({kChannels, kWidth}, 6), dbias = UniformTensor({kChannels}, 7);
    for (size_t i = segments.size(); i-- > 0;) {
      Case& c = cases[i];
      c.dfinal_state.FillZero();
      if (segments[i].continues_after) {
        SetRows(CopyOfRows(cases[i + 1].dinitial_state, 0, kHistory), c.dfinal_state,
                (segments[i].documents() - 1) * kHistory);
      }
      CausalConvolutionBackwardArgs args = c.backward_of_continuation();
      args.dweight = dweight.matrix();
      args.dbias = dbias.vector();
      ASSERT_OK(CausalConvolutionBackward(execution, args));
      SetRows(c.dx, dx, segments[i].begin);
    }
    // f64 sums in another order.
    ExpectNormClose("y", y, whole.y, 1e-12);
    ExpectNormClose("dx", dx, whole.dx, 1e-12);
    ExpectNormClose("dweight", dweight, whole.dweight, 1e-12);
    ExpectNormClose("dbias", dbias, whole.dbias, 1e-12);
  }
}

TEST(CausalConvolutionTest, ThreadsDoNotChangeBits) {
  Execution one({.num_threads = 1}), three({.num_threads = 3});
  Case a(200, 4, {0, 100, 300}, DType::kBf16), b(200, 4, {0, 100, 300}, DType::kBf16);
  for (auto& [execution, c] : {std::pair<Execution&, Case&>(one, a), {three, b}}) {
    ASSERT_OK(CausalConvolutionForward(execution, c.forward()));
    ASSERT_OK(CausalConvolutionBackward(execution, c.backward()));
  }
  ExpectSameBits("y", a.y, b.y);
  ExpectSameBits("dx", a.dx, b.dx);
  ExpectSameBits("dweight", a.dweight, b.dweight);
  ExpectSameBits("dbias", a.dbias, b.dbias);
}

// A document's outputs and input gradients do not depend on where it lies nor on what lies beside
// it, not even on numbers that are not finite.
TEST(CausalConvolutionTest, DocumentsAreIsolatedBitForBit) {
  ForEachSimdTarget([] {
    Execution execution;
    constexpr int64_t kLength = 70, kChannels = 40;
    Case alone(kChannels, 4, {0, kLength}, DType::kBf16);
    ASSERT_OK(CausalConvolutionForward(execution, alone.forward()));
    ASSERT_OK(CausalConvolutionBackward(execution, alone.backward()));
    for (const int32_t before : {1, 13, 64}) {
      const int32_t end = before + static_cast<int32_t>(kLength);
      Case packed(kChannels, 4, {0, before, end, end + 7}, DType::kBf16);
      for (BFloat16& x : packed.x.values<BFloat16>()) {
        x = BFloat16(std::numeric_limits<float>::quiet_NaN());
      }
      SetRows(alone.x, packed.x, before);
      SetRows(alone.dy, packed.dy, before);
      ASSERT_OK(CausalConvolutionForward(execution, packed.forward()));
      ASSERT_OK(CausalConvolutionBackward(execution, packed.backward()));
      ExpectSameBits("y", CopyOfRows(packed.y, before, end), alone.y);
      ExpectSameBits("dx", CopyOfRows(packed.dx, before, end), alone.dx);
    }
  });
}

TEST(CausalConvolutionTest, RejectsWrongShapes) {
  Execution execution;
  Case c(4, 4, {0, 3}, DType::kF32);
  CausalConvolutionForwardArgs forward = c.forward();
  forward.weight.rows = 5;
  EXPECT_THAT(CausalConvolutionForward(execution, forward),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("weight: expected [4, 4], got [5, 4]")));
  c.offsets = {0, 2, 1, 3};
  EXPECT_THAT(CausalConvolutionForward(execution, c.forward()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("document_offsets[2]: expected at least 2, got 1")));
  c.offsets = {0, 3};
  CausalConvolutionBackwardArgs backward = c.backward();
  backward.dx.columns = 3;
  EXPECT_THAT(
      CausalConvolutionBackward(execution, backward),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("dx: expected [3, 4], got [3, 3]")));
  backward = c.backward_of_continuation();
  backward.dfinal_state.rows = 2;
  EXPECT_THAT(CausalConvolutionBackward(execution, backward),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("dfinal_state: expected [3, 4], got [2, 4]")));
}

}  // namespace
}  // namespace plait
