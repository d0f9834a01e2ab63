#include "kernels/rotary_embedding.h"

#include <vector>

#include "kernels/reference/rotary_embedding.h"
#include "tests/support/device_execution.h"
#include "tests/support/finite_differences.h"
#include "tests/support/random_tensor.h"
#include "tests/support/reachable_vector.h"
#include "tests/support/simd_targets.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

// Documents of 3, 1 and the remaining tokens: positions restart at each.
ReachableVector<int32_t> PackedPositions(int64_t tokens) {
  ReachableVector<int32_t> positions;
  for (int32_t t = 0; t < tokens; ++t) positions.push_back(t < 3 ? t : t < 4 ? 0 : t - 4);
  return positions;
}

struct Case {
  Case(int64_t tokens, int64_t heads_in, int64_t head_dim_in, DType dtype)
      : heads(heads_in),
        head_dim(head_dim_in),
        x(UniformTensor({tokens, heads_in * head_dim_in}, 1, dtype)),
        positions(PackedPositions(tokens)) {}

  RotaryEmbeddingArgs args(RotaryDirection direction) {
    return {.x = x.matrix(),
            .positions = positions.data(),
            .heads = heads,
            .head_dim = head_dim,
            .theta = 10000,
            .direction = direction};
  }

  int64_t heads, head_dim;
  Tensor x;
  ReachableVector<int32_t> positions;
};

TEST(RotaryEmbeddingTest, ReferenceRotatesPairsHalfAHeadApart) {
  Execution execution;
  Case c(6, 2, 4, DType::kF64);
  const Tensor before = c.x.Clone();
  ASSERT_OK(reference::RotaryEmbedding(execution, c.args(RotaryDirection::kForward)));
  // Token 5 has position 1; of head 1, element 1 pairs with element 3 at the angle
  // 1 x 10000^(-2/4) = 0.01.
  const double a = before.data<double>()[5 * 8 + 4 + 1], b = before.data<double>()[5 * 8 + 4 + 3];
  EXPECT_NEAR(c.x.data<double>()[5 * 8 + 4 + 1], a * std::cos(0.01) - b * std::sin(0.01), 1e-15);
  EXPECT_NEAR(c.x.data<double>()[5 * 8 + 4 + 3], b * std::cos(0.01) + a * std::sin(0.01), 1e-15);
}

TEST(RotaryEmbeddingTest, ReferenceBackwardMatchesFiniteDifferences) {
  Execution execution;
  Case c(7, 2, 6, DType::kF64);
  Case gradient(7, 2, 6, DType::kF64);
  gradient.x = UniformTensor({7, 12}, 2);
  const Tensor dy = gradient.x.Clone();
  ASSERT_OK(reference::RotaryEmbedding(execution, gradient.args(RotaryDirection::kBackward)));
  const auto loss = [&] {
    Case rotated(7, 2, 6, DType::kF64);
    rotated.x = c.x.Clone();
    EXPECT_OK(reference::RotaryEmbedding(execution, rotated.args(RotaryDirection::kForward)));
    return WeightedSum(rotated.x, dy);
  };
  ExpectGradientMatches("x", c.x, gradient.x, loss);
}

TEST(RotaryEmbeddingTest, BackwardUndoesForwardAndNormsStay) {
  Execution execution;
  for (const auto& implementation : RotaryEmbeddingImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case c(9, 3, 10, DType::kF32);
    const Tensor before = c.x.Clone();
    ASSERT_OK(RunOn(execution, implementation, c.args(RotaryDirection::kForward)));
    double norm_before = 0, norm_after = 0;
    for (int64_t i = 0; i < c.x.num_elements(); ++i) {
      norm_before += std::pow(before.data<float>()[i], 2);
      norm_after += std::pow(c.x.data<float>()[i], 2);
    }
    // Three f32 roundings an element, each at most 2^-24 of values below sqrt(2).
    EXPECT_NEAR(norm_after, norm_before, 8 * RoundingError(DType::kF32) * norm_before);
    ASSERT_OK(RunOn(execution, implementation, c.args(RotaryDirection::kBackward)));
    ExpectClose("x", c.x, before, 16 * RoundingError(DType::kF32));
  }
}

TEST(RotaryEmbeddingTest, PositionsRestartWithEachDocument) {
  Execution execution;
  Case c(8, 1, 16, DType::kF32);
  // Tokens 4 to 7 hold what tokens 0 to 3 hold; positions are 0 1 2 | 0 | 0 1 2 3.
  std::copy_n(c.x.data<float>(), 4 * 16, c.x.data<float>() + 4 * 16);
  ASSERT_OK(RotaryEmbedding(execution, c.args(RotaryDirection::kForward)));
  ExpectSameBits("positions 0 to 2", c.x.Slice(4, 7), c.x.Slice(0, 3));
}

void ExpectImplementationsAgree() {
  Execution execution({.num_threads = 2});
  for (const DType dtype : {DType::kBf16, DType::kF32, DType::kF64}) {
    for (const int64_t head_dim : {2, 8, 20, 64, 130}) {
      for (const auto direction : {RotaryDirection::kForward, RotaryDirection::kBackward}) {
        Case expected(37, 3, head_dim, dtype);
        expected.positions[36] = 4095;
        ASSERT_OK(reference::RotaryEmbedding(execution, expected.args(direction)));
        for (const auto& implementation : RotaryEmbeddingImplementations()) {
          SCOPED_TRACE(implementation.name);
          Case found(37, 3, head_dim, dtype);
          found.positions[36] = 4095;
          if (!implementation.accepts(found.args(direction)).empty()) continue;
          ASSERT_OK(RunOn(execution, implementation, found.args(direction)));
          // Two products, a sum and the two table entries, each rounded to f32 (f64 beside f64);
          // then the output.
          ExpectClose("x", found.x, expected.x,
                      2 * RoundingError(dtype) + 8 * RoundingError(StatisticsDType(dtype)));
        }
      }
    }
  }
}

TEST(RotaryEmbeddingTest, ImplementationsAgreeWithTheReference) {
  ForEachSimdTarget(ExpectImplementationsAgree);
}

TEST(RotaryEmbeddingTest, ThreadsAndEarlierCallsDoNotChangeBits) {
  Execution one({.num_threads = 1}), two({.num_threads = 2});
  Case a(37, 3, 20, DType::kBf16), b(37, 3, 20, DType::kBf16), shorter(3, 3, 20, DType::kBf16);
  ASSERT_OK(RotaryEmbedding(one, a.args(RotaryDirection::kForward)));
  // Positions up to 2 first, those up to 32 later.
  ASSERT_OK(RotaryEmbedding(two, shorter.args(RotaryDirection::kForward)));
  ASSERT_OK(RotaryEmbedding(two, b.args(RotaryDirection::kForward)));
  ExpectSameBits("x", a.x, b.x);
}

// Columns 8 to 23 are aligned, 9 to 24 are not; nothing beside them is touched.
TEST(RotaryEmbeddingTest, RotatesColumnsOfAWiderMatrix) {
  Execution execution;
  for (const int64_t begin : {8, 9}) {
    for (const auto& implementation : RotaryEmbeddingImplementations()) {
      SCOPED_TRACE(testing::Message() << implementation.name << " from " << begin);
      Case alone(5, 2, 8, DType::kF32);
      Tensor wide = UniformTensor({5, 40}, 3, DType::kF32);
      Tensor expected = wide.Clone();
      for (int64_t t = 0; t < 5; ++t)
        std::copy_n(wide.data<float>() + t * 40 + begin, 16, alone.x.data<float>() + t * 16);
      RotaryEmbeddingArgs args = alone.args(RotaryDirection::kForward);
      args.x = wide.columns(begin, 16);
      ASSERT_OK(RunOn(execution, implementation, args));
      ASSERT_OK(RunOn(execution, implementation, alone.args(RotaryDirection::kForward)));
      for (int64_t t = 0; t < 5; ++t)
        std::copy_n(alone.x.data<float>() + t * 16, 16, expected.data<float>() + t * 40 + begin);
      ExpectSameBits("wide", wide, expected);
    }
  }
}

// Enough tokens that a device's thread takes two of a token's three heads, and another the third.
TEST(RotaryEmbeddingTest, ManyTokensAgreeWithTheReference) {
  Execution execution({.num_threads = 2});
  Case expected(1200, 3, 254, DType::kBf16);
  ASSERT_OK(reference::RotaryEmbedding(execution, expected.args(RotaryDirection::kForward)));
  for (const auto& implementation : RotaryEmbeddingImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case found(1200, 3, 254, DType::kBf16);
    ASSERT_OK(RunOn(execution, implementation, found.args(RotaryDirection::kForward)));
    ExpectClose("x", found.x, expected.x,
                2 * RoundingError(DType::kBf16) + 8 * RoundingError(DType::kF32));
  }
}

// f32 would not tell the angles of a millionth position from their neighbours'. All four quadrants.
TEST(RotaryEmbeddingTest, FarPositionsKeepTheirAngles) {
  Execution execution;
  const auto make = [] {
    Case c(8, 1, 4, DType::kF32);
    for (int32_t t = 0; t < 8; ++t) c.positions[static_cast<size_t>(t)] = 1000003 + t;
    return c;
  };
  Case expected = make();
  ASSERT_OK(reference::RotaryEmbedding(execution, expected.args(RotaryDirection::kForward)));
  for (const auto& implementation : RotaryEmbeddingImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case found = make();
    ASSERT_OK(RunOn(execution, implementation, found.args(RotaryDirection::kForward)));
    ExpectClose("x", found.x, expected.x, 10 * RoundingError(DType::kF32));
  }
}

TEST(RotaryEmbeddingTest, RejectsOddHeadDim) {
  Execution execution;
  Case c(3, 2, 8, DType::kF32);
  c.head_dim = 7;
  EXPECT_THAT(RotaryEmbedding(execution, c.args(RotaryDirection::kForward)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("head_dim: expected an even number, got 7")));
}

TEST(RotaryEmbeddingTest, RejectsNegativePosition) {
  Execution execution;
  Case c(3, 2, 8, DType::kF32);
  c.positions[2] = -1;
  EXPECT_THAT(RotaryEmbedding(execution, c.args(RotaryDirection::kForward)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("positions[2]: expected 0 or more, got -1")));
}

TEST(RotaryEmbeddingTest, RejectsMatrixOfAnotherWidth) {
  Execution execution;
  Case c(3, 2, 8, DType::kF32);
  c.heads = 3;
  EXPECT_THAT(
      RotaryEmbedding(execution, c.args(RotaryDirection::kForward)),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("x: expected [3, 24], got [3, 16]")));
}

}  // namespace
}  // namespace plait
