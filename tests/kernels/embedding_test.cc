#include "kernels/embedding.h"

#include "kernels/reference/embedding.h"
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

struct Case {
  Case(int64_t dim, DType table_dtype, DType dtype)
      : table(UniformTensor({6, dim}, 1, table_dtype)),
        dy(UniformTensor({7, dim}, 2, dtype)),
        y(UniformTensor({7, dim}, 3, dtype)),
        dtable(UniformTensor({6, dim}, 4, StatisticsDType(dtype))) {}

  EmbeddingForwardArgs forward() {
    return {.ids = ids.data(), .table = table.matrix(), .y = y.matrix()};
  }
  EmbeddingBackwardArgs backward() {
    return {.ids = ids.data(), .dy = dy.matrix(), .dtable = dtable.matrix()};
  }

  // An id twice, padding, and the first and last row of the table.
  ReachableVector<int32_t> ids = {3, 0, 5, 3, -1, 3, 1};
  Tensor table, dy, y, dtable;
};

TEST(EmbeddingTest, ReferenceBackwardMatchesFiniteDifferences) {
  Execution execution;
  Case c(4, DType::kF64, DType::kF64);
  c.dtable.FillZero();
  ASSERT_OK(reference::EmbeddingBackward(execution, c.backward()));
  ExpectGradientMatches("table", c.table, c.dtable, [&] {
    EXPECT_OK(reference::EmbeddingForward(execution, c.forward()));
    return WeightedSum(c.y, c.dy);
  });
}

// Forward copies or rounds once, backward adds in token order in f32: equal bits, no bound.
void ExpectImplementationsAgree() {
  Execution execution({.num_threads = 2});
  for (const auto& [table_dtype, dtype] : {std::pair{DType::kBf16, DType::kBf16},
                                           {DType::kF32, DType::kBf16},
                                           {DType::kBf16, DType::kF32},
                                           {DType::kF32, DType::kF32},
                                           {DType::kF64, DType::kF64}}) {
    for (const int64_t dim : {1, 7, 64, 129, 2304}) {
      Case expected(dim, table_dtype, dtype);
      ASSERT_OK(reference::EmbeddingForward(execution, expected.forward()));
      ASSERT_OK(reference::EmbeddingBackward(execution, expected.backward()));
      for (const auto& implementation : EmbeddingForwardImplementations()) {
        SCOPED_TRACE(implementation.name);
        Case found(dim, table_dtype, dtype);
        if (!implementation.accepts(found.forward()).empty()) continue;
        ASSERT_OK(RunOn(execution, implementation, found.forward()));
        ExpectSameBits("y", found.y, expected.y);
      }
      for (const auto& implementation : EmbeddingBackwardImplementations()) {
        SCOPED_TRACE(implementation.name);
        Case found(dim, table_dtype, dtype);
        if (!implementation.accepts(found.backward()).empty()) continue;
        ASSERT_OK(RunOn(execution, implementation, found.backward()));
        ExpectSameBits("dtable", found.dtable, expected.dtable);
      }
    }
  }
}

TEST(EmbeddingTest, ImplementationsAgreeWithTheReference) {
  ForEachSimdTarget(ExpectImplementationsAgree);
}

// Thousands of tokens: an id that most have, many that a few have, some that none has, padding.
// More ids than a warp or block of the device looks at, gradients whose order of addition shows.
TEST(EmbeddingTest, ManyTokensAreAddedInTheirOrder) {
  Execution execution({.num_threads = 2});
  const int64_t tokens = 3000, vocabulary = 777, dim = 24;
  ReachableVector<int32_t> ids;
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t mixed = t * 7919 % 1000;
    ids.push_back(mixed < 400 ? 776 : mixed < 450 ? -1 : static_cast<int32_t>(mixed * 5 % 770));
  }
  const Tensor dy = UniformTensor({tokens, dim}, 1, DType::kF32);
  Tensor expected = UniformTensor({vocabulary, dim}, 2, DType::kF32);
  ASSERT_OK(reference::EmbeddingBackward(
      execution, {.ids = ids.data(), .dy = dy.matrix(), .dtable = expected.matrix()}));
  for (const auto& implementation : EmbeddingBackwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    Tensor found = UniformTensor({vocabulary, dim}, 2, DType::kF32);
    ASSERT_OK(RunOn(execution, implementation,
                    {.ids = ids.data(), .dy = dy.matrix(), .dtable = found.matrix()}));
    ExpectSameBits("dtable", found, expected);
  }
}

// Columns of wider matrices, aligned and not, whole vectors and part of one; nothing beside them is
// touched.
TEST(EmbeddingTest, TakesColumnsOfWiderMatrices) {
  Execution execution;
  for (const auto& [dim, begin] : {std::pair<int64_t, int64_t>{32, 32}, {29, 32}, {29, 33}}) {
    Case expected(64, DType::kBf16, DType::kBf16);
    const auto forward = [&, dim = dim, begin = begin](Case& in) {
      EmbeddingForwardArgs args = in.forward();
      args.table = in.table.columns(begin, dim);
      args.y = in.y.columns(begin, dim);
      return args;
    };
    const auto backward = [&, dim = dim, begin = begin](Case& in) {
      EmbeddingBackwardArgs args = in.backward();
      args.dy = in.dy.columns(begin, dim);
      args.dtable = in.dtable.columns(begin, dim);
      return args;
    };
    ASSERT_OK(reference::EmbeddingForward(execution, forward(expected)));
    ASSERT_OK(reference::EmbeddingBackward(execution, backward(expected)));
    for (const auto& implementation : EmbeddingForwardImplementations()) {
      SCOPED_TRACE(implementation.name);
      Case found(64, DType::kBf16, DType::kBf16);
      ASSERT_OK(RunOn(execution, implementation, forward(found)));
      ExpectSameBits("y", found.y, expected.y);
    }
    for (const auto& implementation : EmbeddingBackwardImplementations()) {
      SCOPED_TRACE(implementation.name);
      Case found(64, DType::kBf16, DType::kBf16);
      ASSERT_OK(RunOn(execution, implementation, backward(found)));
      ExpectSameBits("dtable", found.dtable, expected.dtable);
    }
  }
}

TEST(EmbeddingTest, ThreadsDoNotChangeBits) {
  Execution one({.num_threads = 1}), three({.num_threads = 3});
  Case a(201, DType::kBf16, DType::kBf16), b(201, DType::kBf16, DType::kBf16);
  ASSERT_OK(EmbeddingForward(one, a.forward()));
  ASSERT_OK(EmbeddingForward(three, b.forward()));
  ASSERT_OK(EmbeddingBackward(one, a.backward()));
  ASSERT_OK(EmbeddingBackward(three, b.backward()));
  ExpectSameBits("y", a.y, b.y);
  ExpectSameBits("dtable", a.dtable, b.dtable);
}

TEST(EmbeddingTest, PaddingReadsAsZeros) {
  Execution execution;
  Case c(9, DType::kF32, DType::kF32);
  ASSERT_OK(EmbeddingForward(execution, c.forward()));
  for (int64_t d = 0; d < 9; ++d) EXPECT_EQ(c.y.data<float>()[4 * 9 + d], 0.0f);
}

TEST(EmbeddingTest, RejectsAnIdOutsideTheTable) {
  Execution execution;
  Case c(4, DType::kF32, DType::kF32);
  const std::vector<int32_t> ids = {3, 0, 6, 3, -1, 3, 1};
  EmbeddingForwardArgs forward = c.forward();
  forward.ids = ids.data();
  EXPECT_THAT(EmbeddingForward(execution, forward),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("ids[2]: expected an id below 6, got 6")));
  EmbeddingBackwardArgs backward = c.backward();
  backward.ids = ids.data();
  EXPECT_THAT(EmbeddingBackward(execution, backward),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("ids[2]: expected an id below 6, got 6")));
}

TEST(EmbeddingTest, RejectsATableOfAnotherWidth) {
  Execution execution;
  Case c(4, DType::kF32, DType::kF32);
  c.table = UniformTensor({6, 5}, 1, DType::kF32);
  EXPECT_THAT(EmbeddingForward(execution, c.forward()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("table: expected [6, 4], got [6, 5]")));
}

}  // namespace
}  // namespace plait
