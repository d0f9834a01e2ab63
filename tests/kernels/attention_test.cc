#include "kernels/attention.h"

#include <vector>

#include "kernels/reference/attention.h"
#include "tests/kernels/attention_case.h"
#include "tests/support/device_execution.h"
#include "tests/support/finite_differences.h"
#include "tests/support/simd_targets.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

TEST(AttentionTest, ReferenceBackwardMatchesFiniteDifferences) {
  Execution execution;
  for (const Lengths& lengths : {Lengths{3, 1, 5, 1}, Lengths({3, 1, 2, 0}, {3, 4, 7, 2}),
                                 Lengths({3, 1, 2, 0, 2}, {2, 4, 2, 3, 0}, AttentionMask::kNone)}) {
    SCOPED_TRACE(lengths.keys[2]);
    AttentionCase c(lengths, {.heads = 4, .kv_heads = 2, .head_dim = 3}, DType::kF64);
    ASSERT_OK(reference::AttentionForward(execution, c.forward()));
    ASSERT_OK(reference::AttentionBackward(execution, c.backward()));
    const auto loss = [&] {
      EXPECT_OK(reference::AttentionForward(execution, c.forward()));
      return WeightedSum(c.out, c.dout);
    };
    ExpectGradientMatches("q", c.q, c.dq, loss);
    ExpectGradientMatches("k", c.k, c.dk, loss);
    ExpectGradientMatches("v", c.v, c.dv, loss);
  }
}

TEST(AttentionTest, ReferenceFirstTokenOfEachDocumentReadsItsOwnValue) {
  Execution execution;
  AttentionCase c({2, 1, 3}, {.heads = 2, .kv_heads = 1, .head_dim = 4}, DType::kF64);
  ASSERT_OK(reference::AttentionForward(execution, c.forward()));
  for (const int64_t t : {0, 2, 3}) {
    for (int64_t i = 0; i < 8; ++i)
      EXPECT_EQ(c.out.data<double>()[t * 8 + i], c.v.data<double>()[t * 4 + i % 4]);
  }
}

TEST(AttentionTest, ReferenceCachedQueriesEqualTheLastOnesOfTheWholeDocument) {
  Execution execution;
  const Heads sizes = {.heads = 2, .kv_heads = 1, .head_dim = 4};
  AttentionCase whole({7}, sizes, DType::kF64);
  ASSERT_OK(reference::AttentionForward(execution, whole.forward()));
  AttentionCase cached(Lengths({2}, {7}), sizes, DType::kF64);
  cached.q = whole.q.Slice(5, 7).Clone();
  ASSERT_OK(reference::AttentionForward(execution, cached.forward()));
  ExpectSameBits("out", cached.out, whole.out.Slice(5, 7).Clone());
}

void ExpectForwardAgrees(const Lengths& lengths, const Heads& sizes, DType dtype, DType result) {
  SCOPED_TRACE(testing::Message() << "head_dim " << sizes.head_dim << " " << Name(dtype) << " to "
                                  << Name(result) << " last document " << lengths.queries.back()
                                  << " of " << lengths.keys.back());
  Execution execution({.num_threads = 2});
  AttentionCase expected(lengths, sizes, dtype, result);
  ASSERT_OK(reference::AttentionForward(execution, expected.forward()));
  // An error e of every score changes each weight by at most a factor exp(2 e), and so the mean of
  // values by 2 e of the largest; sums over the keys and the exponential add a rounding a term.
  const double terms = static_cast<double>(*std::ranges::max_element(lengths.keys) + 16);
  const double error = 2 * ScoreError(expected) + 2 * terms * RoundingError(DType::kF32);
  for (const auto& implementation : AttentionForwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    AttentionCase found(lengths, sizes, dtype, result);
    if (!implementation.accepts(found.forward()).empty()) continue;
    ASSERT_OK(RunOn(execution, implementation, found.forward()));
    ExpectClose("out", found.out, expected.out, error + 2 * RoundingError(result));
    // Rows without keys hold -infinity, which no distance describes.
    Tensor expected_sums = expected.log_sum_exp.Clone();
    for (int64_t i = 0; i < expected_sums.num_elements(); ++i) {
      float& value = expected_sums.data<float>()[i];
      if (std::isfinite(value)) continue;
      EXPECT_EQ(found.log_sum_exp.data<float>()[i], value) << i;
      value = found.log_sum_exp.data<float>()[i] = 0;
    }
    ExpectClose("log_sum_exp", found.log_sum_exp, expected_sums, 4 * RoundingError(DType::kF32),
                error);
  }
}

void ExpectForwardsAgree() {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    for (const int64_t head_dim : {8, 20, 64, 80}) {
      const Heads sizes = {.heads = 2, .kv_heads = 1, .head_dim = head_dim};
      ExpectForwardAgrees({1, 5, 33, 130}, sizes, dtype, dtype);
      ExpectForwardAgrees({{1, 5, 2, 33, 49}, {9, 50, 195, 33, 60}}, sizes, dtype, dtype);
    }
    // Several key blocks, and one query beside a long cache.
    const Heads sizes = {.heads = 3, .kv_heads = 3, .head_dim = 16};
    ExpectForwardAgrees({{420, 1}, {420, 400}}, sizes, dtype, DType::kF32);
    // Every query sees all keys, also where they are fewer or none.
    ExpectForwardAgrees(
        {{1, 0, 1, 60, 33, 2, 100}, {9, 3, 0, 20, 0, 250, 100}, AttentionMask::kNone}, sizes, dtype,
        DType::kF32);
  }
}

TEST(AttentionTest, ForwardImplementationsAgreeWithTheReference) {
  ForEachSimdTarget(ExpectForwardsAgree);
}

// Over the keys, of the probabilities with which the group's queries read one: dv where dout = 1.
double LargestSumOfProbabilities(const Lengths& lengths, const Heads& sizes, DType dtype) {
  Execution execution;
  AttentionCase c(lengths, sizes, dtype);
  c.dout = UniformTensor(c.q.shape(), 4, dtype, 1, 1);
  EXPECT_OK(reference::AttentionForward(execution, c.forward()));
  EXPECT_OK(reference::AttentionBackward(execution, c.backward()));
  return *std::ranges::max_element(c.dv.Converted(DType::kF32).values<float>());
}

void ExpectBackwardAgrees(const Lengths& lengths, const Heads& sizes, DType dtype, DType result) {
  SCOPED_TRACE(testing::Message() << "head_dim " << sizes.head_dim << " " << Name(dtype) << " to "
                                  << Name(result) << " last document " << lengths.queries.back()
                                  << " of " << lengths.keys.back());
  AttentionCase expected(lengths, sizes, dtype, result);
  expected.out = expected.out.Converted(dtype);
  Execution execution({.num_threads = 2});
  ASSERT_OK(reference::AttentionForward(execution, expected.forward()));
  ASSERT_OK(reference::AttentionBackward(execution, expected.backward()));
  // Each probability is off by at most a factor exp(score error and the roundings of log_sum_exp,
  // exponential and sums). |dP - D| <= 2 |dout| |v|, and dP itself is off by head_dim roundings.
  // A sum of terms weighted by probabilities is off by that much of the largest term times the sum
  // of the probabilities: one over the keys, `weight` at most over the queries that see a key.
  const double longest =
      std::max(*std::ranges::max_element(lengths.keys), *std::ranges::max_element(lengths.queries));
  const double group = static_cast<double>(sizes.heads / sizes.kv_heads);
  const double f32 = RoundingError(DType::kF32);
  const double probability = 2 * ScoreError(expected) + 24 * f32;
  const double dp = 2 * LargestRowNorm(expected.dout, sizes.head_dim) *
                    LargestRowNorm(expected.v, sizes.head_dim);
  const double terms = probability + (longest * group + sizes.head_dim) * f32;
  const double weight = LargestSumOfProbabilities(lengths, sizes, dtype);
  for (const auto& implementation : AttentionBackwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    AttentionCase found(lengths, sizes, dtype, result);
    found.out = expected.out;
    found.log_sum_exp = expected.log_sum_exp;
    for (Tensor* gradient : {&found.dq, &found.dk, &found.dv})
      *gradient = UniformTensor(gradient->shape(), 5, result);  // must be overwritten
    if (!implementation.accepts(found.backward()).empty()) continue;
    ASSERT_OK(RunOn(execution, implementation, found.backward()));
    const double scale = found.layout().scale, output = 2 * RoundingError(result);
    ExpectClose("dq", found.dq, expected.dq, output, 2 * terms * dp * scale);
    ExpectClose("dk", found.dk, expected.dk, output, 2 * terms * dp * scale * weight);
    ExpectClose("dv", found.dv, expected.dv, output, terms * weight);
  }
}

void ExpectBackwardsAgree() {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    for (const int64_t head_dim : {8, 20, 64, 80}) {
      const Heads sizes = {.heads = 2, .kv_heads = 1, .head_dim = head_dim};
      ExpectBackwardAgrees({1, 5, 33, 130}, sizes, dtype, dtype);
    }
    const Heads sizes = {.heads = 3, .kv_heads = 3, .head_dim = 16};
    ExpectBackwardAgrees({420, 1}, sizes, dtype, dtype);
    // Queries at the end of their documents; keys that none sees.
    const Heads grouped = {.heads = 4, .kv_heads = 2, .head_dim = 20};
    ExpectBackwardAgrees({{1, 5, 70, 33, 0, 110}, {9, 50, 260, 33, 30, 400}}, grouped, dtype,
                         DType::kF32);
    ExpectBackwardAgrees(
        {{1, 0, 1, 60, 33, 2, 100}, {9, 3, 0, 20, 0, 250, 100}, AttentionMask::kNone}, grouped,
        dtype, DType::kF32);
  }
}

TEST(AttentionTest, BackwardImplementationsAgreeWithTheReference) {
  ForEachSimdTarget(ExpectBackwardsAgree);
}

// One, two and five threads: with five, the backward takes its items by block instead of by head.
void ExpectThreadsDoNotChangeBits(const Lengths& lengths, DType dtype) {
  const Heads sizes = {.heads = 4, .kv_heads = 2, .head_dim = 20};
  Execution one({.num_threads = 1});
  AttentionCase expected(lengths, sizes, dtype);
  ASSERT_OK(AttentionForward(one, expected.forward()));
  ASSERT_OK(AttentionBackward(one, expected.backward()));
  for (const int num_threads : {2, 5}) {
    Execution execution({.num_threads = num_threads});
    AttentionCase found(lengths, sizes, dtype);
    for (Tensor* gradient : {&found.dq, &found.dk, &found.dv})
      *gradient = UniformTensor(gradient->shape(), 5, dtype);  // must be overwritten
    ASSERT_OK(AttentionForward(execution, found.forward()));
    ASSERT_OK(AttentionBackward(execution, found.backward()));
    ExpectSameBits("out", found.out, expected.out);
    ExpectSameBits("log_sum_exp", found.log_sum_exp, expected.log_sum_exp);
    ExpectSameBits("dq", found.dq, expected.dq);
    ExpectSameBits("dk", found.dk, expected.dk);
    ExpectSameBits("dv", found.dv, expected.dv);
  }
}

TEST(AttentionTest, ThreadsDoNotChangeBits) {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    ExpectThreadsDoNotChangeBits({1, 7, 250, 50}, dtype);
    ExpectThreadsDoNotChangeBits({{1, 0, 250, 50}, {1, 30, 400, 90}}, dtype);
    ExpectThreadsDoNotChangeBits({{1, 0, 250, 50}, {0, 30, 90, 400}, AttentionMask::kNone}, dtype);
  }
}

// A document's outputs and gradients do not depend on the other documents' contents, lengths or
// number, nor on its own place among them.
void ExpectDocumentsAreIsolated() {
  Execution execution({.num_threads = 2});
  const Heads sizes = {.heads = 2, .kv_heads = 1, .head_dim = 20};
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    AttentionCase alone({61}, sizes, dtype);
    ASSERT_OK(AttentionForward(execution, alone.forward()));
    ASSERT_OK(AttentionBackward(execution, alone.backward()));
    for (const std::vector<int32_t>& before : {std::vector<int32_t>{1}, {200}, {3, 48, 5}}) {
      std::vector<int32_t> lengths = before;
      lengths.push_back(61);
      lengths.push_back(9);
      AttentionCase packed(lengths, sizes, dtype);
      const int64_t begin = packed.tokens() - 70, end = begin + 61;
      const auto place = [&](Tensor& to, const Tensor& from) {
        std::memcpy(to.Slice(begin, end).raw(), from.raw(), from.bytes());
      };
      place(packed.q, alone.q);
      place(packed.k, alone.k);
      place(packed.v, alone.v);
      place(packed.dout, alone.dout);
      ASSERT_OK(AttentionForward(execution, packed.forward()));
      ASSERT_OK(AttentionBackward(execution, packed.backward()));
      ExpectSameBits("out", packed.out.Slice(begin, end), alone.out);
      ExpectSameBits("dq", packed.dq.Slice(begin, end), alone.dq);
      ExpectSameBits("dk", packed.dk.Slice(begin, end), alone.dk);
      ExpectSameBits("dv", packed.dv.Slice(begin, end), alone.dv);
    }
  }
}

TEST(AttentionTest, DocumentsAreIsolatedBitForBit) {
  ForEachSimdTarget(ExpectDocumentsAreIsolated);
}

TEST(AttentionTest, ReadsAndWritesColumnsOfWiderMatrices) {
  Execution execution({.num_threads = 2});
  const int64_t dim = 20, width = 3 * dim;  // two query heads; key and value heads beside q
  AttentionCase apart({5, 60}, {.heads = 1, .kv_heads = 1, .head_dim = dim}, DType::kBf16);
  AttentionCase together({5, 60}, {.heads = 1, .kv_heads = 1, .head_dim = dim}, DType::kBf16);
  Tensor qkv = Tensor::OnHost(DType::kBf16, {65, width});
  Tensor gradient = Tensor::OnHost(DType::kBf16, {65, width});
  const auto copy = [&](const Tensor& from, int64_t column) {
    for (int64_t t = 0; t < 65; ++t)
      std::copy_n(from.data<BFloat16>() + t * dim, dim, qkv.data<BFloat16>() + t * width + column);
  };
  copy(apart.q, 0);
  copy(apart.k, dim);
  copy(apart.v, 2 * dim);
  ASSERT_OK(AttentionForward(execution, apart.forward()));
  ASSERT_OK(AttentionBackward(execution, apart.backward()));
  AttentionForwardArgs forward = together.forward();
  AttentionBackwardArgs backward = together.backward();
  forward.q = backward.q = qkv.columns(0, dim);
  forward.k = backward.k = qkv.columns(dim, dim);
  forward.v = backward.v = qkv.columns(2 * dim, dim);
  backward.dq = gradient.columns(0, dim);
  backward.dk = gradient.columns(dim, dim);
  backward.dv = gradient.columns(2 * dim, dim);
  ASSERT_OK(AttentionForward(execution, forward));
  ASSERT_OK(AttentionBackward(execution, backward));
  ExpectSameBits("out", together.out, apart.out);
  const auto expect = [&](const char* name, const Tensor& expected, int64_t column) {
    Tensor found = Tensor::OnHost(DType::kBf16, {65, dim});
    for (int64_t t = 0; t < 65; ++t)
      std::copy_n(gradient.data<BFloat16>() + t * width + column, dim,
                  found.data<BFloat16>() + t * dim);
    ExpectSameBits(name, found, expected);
  };
  expect("dq", apart.dq, 0);
  expect("dk", apart.dk, dim);
  expect("dv", apart.dv, 2 * dim);
}

TEST(AttentionTest, RejectsHeadsThatKvHeadsDoNotDivide) {
  Execution execution;
  AttentionCase c({3}, {.heads = 3, .kv_heads = 2, .head_dim = 4}, DType::kF32);
  EXPECT_THAT(AttentionForward(execution, c.forward()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("heads = 3: expected a positive multiple of kv_heads = 2")));
}

TEST(AttentionTest, RejectsOffsetsThatDoNotCoverTheRows) {
  Execution execution;
  AttentionCase c({3, 2}, {.heads = 2, .kv_heads = 2, .head_dim = 4}, DType::kF32);
  c.query_offsets[2] = 4;
  EXPECT_THAT(AttentionForward(execution, c.forward()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("query_offsets[2]: expected 5 rows, got 4")));
  c.query_offsets[1] = 6;
  EXPECT_THAT(AttentionForward(execution, c.forward()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("query_offsets[2]: expected at least 6, got 4")));
}

TEST(AttentionTest, RejectsCausalDocumentWithFewerKeysThanQueries) {
  Execution execution;
  AttentionCase c(Lengths({3, 4}, {3, 3}), {.heads = 2, .kv_heads = 2, .head_dim = 4}, DType::kF32);
  const auto refused =
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("key_offsets: document 1: expected at least as many keys as its "
                         "4 queries, got 3"));
  EXPECT_THAT(AttentionForward(execution, c.forward()), refused);
  EXPECT_THAT(AttentionBackward(execution, c.backward()), refused);
}

TEST(AttentionTest, RejectsOutputOfAnotherWidthOrDType) {
  Execution execution;
  AttentionCase c({3}, {.heads = 2, .kv_heads = 1, .head_dim = 4}, DType::kF32);
  c.out = Tensor::OnHost(DType::kF32, {3, 7});
  EXPECT_THAT(
      AttentionForward(execution, c.forward()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("out: expected [3, 8], got [3, 7]")));
  c.out = Tensor::OnHost(DType::kBf16, {3, 8});
  EXPECT_THAT(
      AttentionForward(execution, c.forward()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("out: expected f32, got bf16")));
}

TEST(AttentionTest, BackwardRejectsGradientsOfAnotherShapeOrDType) {
  Execution execution;
  AttentionCase c(Lengths({2}, {5}), {.heads = 2, .kv_heads = 2, .head_dim = 4}, DType::kF32);
  c.dk = Tensor::OnHost(DType::kF32, {2, 8});
  EXPECT_THAT(
      AttentionBackward(execution, c.backward()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("dk: expected [5, 8], got [2, 8]")));
  c.dk = Tensor::OnHost(DType::kBf16, {5, 8});
  EXPECT_THAT(
      AttentionBackward(execution, c.backward()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("dk: expected f32, got bf16")));
}

}  // namespace
}  // namespace plait
