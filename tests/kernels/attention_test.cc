#include "kernels/attention.h"

#include <vector>

#include "kernels/reference/attention.h"
#include "tests/support/finite_differences.h"
#include "tests/support/random_tensor.h"
#include "tests/support/simd_targets.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

std::vector<int32_t> Offsets(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> offsets = {0};
  for (const int32_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

struct Heads {
  int64_t heads, kv_heads, head_dim;
};

struct Case {
  Case(const std::vector<int32_t>& queries, const std::vector<int32_t>& keys, const Heads& sizes_in,
       DType dtype)
      : query_offsets(Offsets(queries)),
        key_offsets(Offsets(keys)),
        sizes(sizes_in),
        q(UniformTensor({tokens(), sizes.heads * sizes.head_dim}, 1, dtype, -2, 2)),
        k(UniformTensor({key_tokens(), sizes.kv_heads * sizes.head_dim}, 2, dtype, -2, 2)),
        v(UniformTensor({key_tokens(), sizes.kv_heads * sizes.head_dim}, 3, dtype)),
        dout(UniformTensor({tokens(), sizes.heads * sizes.head_dim}, 4, dtype)),
        out(Tensor::OnHost(dtype, q.shape())),
        log_sum_exp(Tensor::OnHost(StatisticsDType(dtype), {sizes.heads, tokens()})),
        dq(Tensor::OnHost(dtype, q.shape())),
        dk(Tensor::OnHost(dtype, k.shape())),
        dv(Tensor::OnHost(dtype, k.shape())) {}
  Case(const std::vector<int32_t>& lengths, const Heads& sizes_in, DType dtype)
      : Case(lengths, lengths, sizes_in, dtype) {}

  int64_t tokens() const { return query_offsets.back(); }
  int64_t key_tokens() const { return key_offsets.back(); }

  AttentionLayout layout() {
    return {.heads = sizes.heads,
            .kv_heads = sizes.kv_heads,
            .head_dim = sizes.head_dim,
            .scale = 1 / std::sqrt(static_cast<double>(sizes.head_dim)),
            .documents = static_cast<int64_t>(query_offsets.size()) - 1,
            .query_offsets = query_offsets.data(),
            .key_offsets = key_offsets.data()};
  }
  AttentionForwardArgs forward() {
    return {.layout = layout(),
            .q = q.matrix(),
            .k = k.matrix(),
            .v = v.matrix(),
            .out = out.matrix(),
            .log_sum_exp = log_sum_exp.matrix()};
  }
  AttentionBackwardArgs backward() {
    return {.layout = layout(),
            .q = q.matrix(),
            .k = k.matrix(),
            .v = v.matrix(),
            .out = out.matrix(),
            .log_sum_exp = log_sum_exp.matrix(),
            .dout = dout.matrix(),
            .dq = dq.matrix(),
            .dk = dk.matrix(),
            .dv = dv.matrix()};
  }

  std::vector<int32_t> query_offsets, key_offsets;
  Heads sizes;
  Tensor q, k, v, dout, out, log_sum_exp, dq, dk, dv;
};

TEST(AttentionTest, ReferenceBackwardMatchesFiniteDifferences) {
  Execution execution;
  Case c({3, 1, 5, 1}, {.heads = 4, .kv_heads = 2, .head_dim = 3}, DType::kF64);
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

TEST(AttentionTest, ReferenceFirstTokenOfEachDocumentReadsItsOwnValue) {
  Execution execution;
  Case c({2, 1, 3}, {.heads = 2, .kv_heads = 1, .head_dim = 4}, DType::kF64);
  ASSERT_OK(reference::AttentionForward(execution, c.forward()));
  for (const int64_t t : {0, 2, 3}) {
    for (int64_t i = 0; i < 8; ++i)
      EXPECT_EQ(c.out.data<double>()[t * 8 + i], c.v.data<double>()[t * 4 + i % 4]);
  }
}

TEST(AttentionTest, ReferenceCachedQueriesEqualTheLastOnesOfTheWholeDocument) {
  Execution execution;
  const Heads sizes = {.heads = 2, .kv_heads = 1, .head_dim = 4};
  Case whole({7}, sizes, DType::kF64);
  ASSERT_OK(reference::AttentionForward(execution, whole.forward()));
  Case cached({2}, {7}, sizes, DType::kF64);
  cached.q = whole.q.Slice(5, 7).Clone();
  ASSERT_OK(reference::AttentionForward(execution, cached.forward()));
  ExpectSameBits("out", cached.out, whole.out.Slice(5, 7).Clone());
}

// Largest norm of the part of a row that one head reads.
double LargestRowNorm(const Tensor& x, int64_t head_dim) {
  const Tensor values = x.Converted(DType::kF64);
  double largest = 0;
  for (int64_t i = 0; i < values.num_elements(); i += head_dim) {
    double sum = 0;
    for (int64_t d = i; d < i + head_dim; ++d) sum += std::pow(values.data<double>()[d], 2);
    largest = std::max(largest, std::sqrt(sum));
  }
  return largest;
}

// Bound on the error of one score in f32: head_dim products summed, and the scaling.
double ScoreError(Case& c) {
  const double terms = static_cast<double>(c.sizes.head_dim + 2);
  return terms * RoundingError(DType::kF32) * LargestRowNorm(c.q, c.sizes.head_dim) *
         LargestRowNorm(c.k, c.sizes.head_dim) * c.layout().scale;
}

void ExpectForwardAgrees(const std::vector<int32_t>& queries, const std::vector<int32_t>& keys,
                         const Heads& sizes, DType dtype) {
  SCOPED_TRACE(testing::Message() << "head_dim " << sizes.head_dim << " " << Name(dtype)
                                  << " last document " << queries.back() << " of " << keys.back());
  Execution execution({.num_threads = 2});
  Case expected(queries, keys, sizes, dtype);
  ASSERT_OK(reference::AttentionForward(execution, expected.forward()));
  // An error e of every score changes each weight by at most a factor exp(2 e), and so the mean of
  // values by 2 e of the largest; sums over the keys and the exponential add a rounding a term.
  const double terms = static_cast<double>(*std::ranges::max_element(keys) + 16);
  const double error = 2 * ScoreError(expected) + 2 * terms * RoundingError(DType::kF32);
  for (const auto& implementation : AttentionForwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case found(queries, keys, sizes, dtype);
    if (!implementation.accepts(found.forward()).empty()) continue;
    ASSERT_OK(implementation.run(execution, found.forward()));
    ExpectClose("out", found.out, expected.out, error + 2 * RoundingError(dtype));
    ExpectClose("log_sum_exp", found.log_sum_exp, expected.log_sum_exp,
                4 * RoundingError(DType::kF32), error);
  }
}

void ExpectForwardsAgree() {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    for (const int64_t head_dim : {8, 20, 64, 80}) {
      const Heads sizes = {.heads = 2, .kv_heads = 1, .head_dim = head_dim};
      ExpectForwardAgrees({1, 5, 33, 130}, {1, 5, 33, 130}, sizes, dtype);
      ExpectForwardAgrees({1, 5, 2, 33, 49}, {9, 50, 195, 33, 60}, sizes, dtype);
    }
    // Several key blocks, and one query beside a long cache.
    const Heads sizes = {.heads = 3, .kv_heads = 3, .head_dim = 16};
    ExpectForwardAgrees({420, 1}, {420, 400}, sizes, dtype);
  }
}

TEST(AttentionTest, ForwardImplementationsAgreeWithTheReference) {
  ForEachSimdTarget(ExpectForwardsAgree);
}

// Over the keys, of the probabilities with which the group's queries read one: dv where dout = 1.
double LargestSumOfProbabilities(const std::vector<int32_t>& lengths, const Heads& sizes,
                                 DType dtype) {
  Execution execution;
  Case c(lengths, sizes, dtype);
  c.dout = UniformTensor(c.q.shape(), 4, dtype, 1, 1);
  EXPECT_OK(reference::AttentionForward(execution, c.forward()));
  EXPECT_OK(reference::AttentionBackward(execution, c.backward()));
  return *std::ranges::max_element(c.dv.Converted(DType::kF32).values<float>());
}

void ExpectBackwardAgrees(const std::vector<int32_t>& lengths, const Heads& sizes, DType dtype) {
  SCOPED_TRACE(testing::Message() << "head_dim " << sizes.head_dim << " " << Name(dtype)
                                  << " last document " << lengths.back());
  Execution execution({.num_threads = 2});
  Case expected(lengths, sizes, dtype);
  ASSERT_OK(reference::AttentionForward(execution, expected.forward()));
  ASSERT_OK(reference::AttentionBackward(execution, expected.backward()));
  // Each probability is off by at most a factor exp(score error and the roundings of log_sum_exp,
  // exponential and sums). |dP - D| <= 2 |dout| |v|, and dP itself is off by head_dim roundings.
  // A sum of terms weighted by probabilities is off by that much of the largest term times the sum
  // of the probabilities: one over the keys, `weight` at most over the queries that see a key.
  const double longest = *std::ranges::max_element(lengths);
  const double group = static_cast<double>(sizes.heads / sizes.kv_heads);
  const double f32 = RoundingError(DType::kF32);
  const double probability = 2 * ScoreError(expected) + 24 * f32;
  const double dp = 2 * LargestRowNorm(expected.dout, sizes.head_dim) *
                    LargestRowNorm(expected.v, sizes.head_dim);
  const double terms = probability + (longest * group + sizes.head_dim) * f32;
  const double weight = LargestSumOfProbabilities(lengths, sizes, dtype);
  for (const auto& implementation : AttentionBackwardImplementations()) {
    SCOPED_TRACE(implementation.name);
    Case found(lengths, sizes, dtype);
    if (!implementation.accepts(found.backward()).empty()) continue;
    ASSERT_OK(reference::AttentionForward(execution, found.forward()));
    ASSERT_OK(implementation.run(execution, found.backward()));
    const double scale = found.layout().scale, output = 2 * RoundingError(dtype);
    ExpectClose("dq", found.dq, expected.dq, output, 2 * terms * dp * scale);
    ExpectClose("dk", found.dk, expected.dk, output, 2 * terms * dp * scale * weight);
    ExpectClose("dv", found.dv, expected.dv, output, terms * weight);
  }
}

void ExpectBackwardsAgree() {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    for (const int64_t head_dim : {8, 20, 64, 80}) {
      const Heads sizes = {.heads = 2, .kv_heads = 1, .head_dim = head_dim};
      ExpectBackwardAgrees({1, 5, 33, 130}, sizes, dtype);
    }
    const Heads sizes = {.heads = 3, .kv_heads = 3, .head_dim = 16};
    ExpectBackwardAgrees({420, 1}, sizes, dtype);
  }
}

TEST(AttentionTest, BackwardImplementationsAgreeWithTheReference) {
  ForEachSimdTarget(ExpectBackwardsAgree);
}

// One, two and five threads: with five, the backward takes its items by block instead of by head.
TEST(AttentionTest, ThreadsDoNotChangeBits) {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    const Heads sizes = {.heads = 4, .kv_heads = 2, .head_dim = 20};
    Execution one({.num_threads = 1});
    Case expected({1, 7, 250, 50}, sizes, dtype);
    ASSERT_OK(AttentionForward(one, expected.forward()));
    ASSERT_OK(AttentionBackward(one, expected.backward()));
    for (const int num_threads : {2, 5}) {
      Execution execution({.num_threads = num_threads});
      Case found({1, 7, 250, 50}, sizes, dtype);
      ASSERT_OK(AttentionForward(execution, found.forward()));
      ASSERT_OK(AttentionBackward(execution, found.backward()));
      ExpectSameBits("out", found.out, expected.out);
      ExpectSameBits("log_sum_exp", found.log_sum_exp, expected.log_sum_exp);
      ExpectSameBits("dq", found.dq, expected.dq);
      ExpectSameBits("dk", found.dk, expected.dk);
      ExpectSameBits("dv", found.dv, expected.dv);
    }
  }
}

// A document's outputs and gradients do not depend on the other documents' contents, lengths or
// number, nor on its own place among them.
void ExpectDocumentsAreIsolated() {
  Execution execution({.num_threads = 2});
  const Heads sizes = {.heads = 2, .kv_heads = 1, .head_dim = 20};
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    Case alone({61}, sizes, dtype);
    ASSERT_OK(AttentionForward(execution, alone.forward()));
    ASSERT_OK(AttentionBackward(execution, alone.backward()));
    for (const std::vector<int32_t>& before : {std::vector<int32_t>{1}, {200}, {3, 48, 5}}) {
      std::vector<int32_t> lengths = before;
      lengths.push_back(61);
      lengths.push_back(9);
      Case packed(lengths, sizes, dtype);
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
  Case apart({5, 60}, {.heads = 1, .kv_heads = 1, .head_dim = dim}, DType::kBf16);
  Case together({5, 60}, {.heads = 1, .kv_heads = 1, .head_dim = dim}, DType::kBf16);
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
  Case c({3}, {.heads = 3, .kv_heads = 2, .head_dim = 4}, DType::kF32);
  EXPECT_THAT(AttentionForward(execution, c.forward()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("heads = 3: expected a positive multiple of kv_heads = 2")));
}

TEST(AttentionTest, RejectsOffsetsThatDoNotCoverTheRows) {
  Execution execution;
  Case c({3, 2}, {.heads = 2, .kv_heads = 2, .head_dim = 4}, DType::kF32);
  c.query_offsets[2] = 4;
  EXPECT_THAT(AttentionForward(execution, c.forward()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("query_offsets[2]: expected 5 rows, got 4")));
  c.query_offsets[1] = 6;
  EXPECT_THAT(AttentionForward(execution, c.forward()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("query_offsets[2]: expected at least 6, got 4")));
}

TEST(AttentionTest, RejectsDocumentWithFewerKeysThanQueries) {
  Execution execution;
  Case c({3, 4}, {3, 3}, {.heads = 2, .kv_heads = 2, .head_dim = 4}, DType::kF32);
  EXPECT_THAT(AttentionForward(execution, c.forward()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("key_offsets: document 1: expected at least as many keys as its "
                                 "4 queries, got 3")));
}

TEST(AttentionTest, RejectsOutputOfAnotherWidthOrDType) {
  Execution execution;
  Case c({3}, {.heads = 2, .kv_heads = 1, .head_dim = 4}, DType::kF32);
  c.out = Tensor::OnHost(DType::kF32, {3, 7});
  EXPECT_THAT(
      AttentionForward(execution, c.forward()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("out: expected [3, 8], got [3, 7]")));
  c.out = Tensor::OnHost(DType::kBf16, {3, 8});
  EXPECT_THAT(
      AttentionForward(execution, c.forward()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("out: expected f32, got bf16")));
}

TEST(AttentionTest, BackwardRejectsCachedLayout) {
  Execution execution;
  Case c({2}, {5}, {.heads = 2, .kv_heads = 2, .head_dim = 4}, DType::kF32);
  EXPECT_THAT(AttentionBackward(execution, c.backward()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("key_offsets[1]: expected 2 rows, got 5")));
}

}  // namespace
}  // namespace plait
