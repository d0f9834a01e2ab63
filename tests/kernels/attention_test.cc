#include "kernels/attention.h"

#include <algorithm>
#include <span>
#include <utility>
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

template <class Args>
const Implementation<Args>& Named(std::span<const Implementation<Args>> implementations,
                                  absl::string_view name) {
  return *std::ranges::find(implementations, name, &Implementation<Args>::name);
}

// Attention by whatever the CPU takes first, or by the device's own kernels.
struct Runner {
  DeviceKind device = DeviceKind::kCpu;

  absl::Status Forward(Execution& cpu, const AttentionForwardArgs& args) const {
    if (device == DeviceKind::kCpu) return AttentionForward(cpu, args);
    return RunOn(cpu, Named(AttentionForwardImplementations(), "cuda"), args);
  }
  absl::Status Backward(Execution& cpu, const AttentionBackwardArgs& args) const {
    if (device == DeviceKind::kCpu) return AttentionBackward(cpu, args);
    return RunOn(cpu, Named(AttentionBackwardImplementations(), "cuda"), args);
  }
};

// cuDNN's tensor cores multiply probabilities (values: below 1 here) and gradients of scores once
// they are rounded to the inputs' dtype: an error relative to each term of a sum.
double FactorError(absl::string_view implementation, DType dtype) {
  return implementation == "cudnn" ? RoundingError(dtype) : 0;
}

void ExpectForwardAgrees(const Lengths& lengths, const Heads& sizes, DType dtype, DType result,
                         DeviceKind device) {
  SCOPED_TRACE(testing::Message() << "head_dim " << sizes.head_dim << " " << Name(dtype) << " to "
                                  << Name(result) << " last document " << lengths.queries.back()
                                  << " of " << lengths.keys.back());
  Execution execution({.num_threads = 2});
  AttentionCase expected(lengths, sizes, dtype, result);
  ASSERT_OK(reference::AttentionForward(execution, expected.forward()));
  // An error e of every score changes each weight by at most a factor exp(2 e), and so the mean of
  // values by 2 e of the largest; sums over the keys and the exponential add a rounding a term.
  const double terms = static_cast<double>(*std::ranges::max_element(lengths.keys) + 16);
  const double error = 2 * ScoreError(expected) + 2 * terms * WorkingError(dtype);
  for (const auto& implementation : AttentionForwardImplementations()) {
    if (implementation.device != device) continue;
    SCOPED_TRACE(implementation.name);
    AttentionCase found(lengths, sizes, dtype, result);
    if (!implementation.accepts(found.forward()).empty()) continue;
    ASSERT_OK(RunOn(execution, implementation, found.forward()));
    ExpectClose("out", found.out, expected.out, error + 2 * RoundingError(result),
                FactorError(implementation.name, dtype));
    // Rows without keys hold -infinity, which no distance describes.
    Tensor expected_sums = expected.log_sum_exp.Converted(DType::kF64);
    Tensor found_sums = found.log_sum_exp.Converted(DType::kF64);
    for (int64_t i = 0; i < expected_sums.num_elements(); ++i) {
      double& value = expected_sums.data<double>()[i];
      if (std::isfinite(value)) continue;
      EXPECT_EQ(found_sums.data<double>()[i], value) << i;
      value = found_sums.data<double>()[i] = 0;
    }
    ExpectClose("log_sum_exp", found_sums, expected_sums, 4 * WorkingError(dtype), error);
  }
}

void ExpectForwardsAgree(DeviceKind device) {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    for (const int64_t head_dim : {8, 20, 64, 80}) {
      const Heads sizes = {.heads = 2, .kv_heads = 1, .head_dim = head_dim};
      ExpectForwardAgrees({1, 5, 33, 130}, sizes, dtype, dtype, device);
      ExpectForwardAgrees({{1, 5, 2, 33, 49}, {9, 50, 195, 33, 60}}, sizes, dtype, dtype, device);
    }
    // Several key blocks, and one query beside a long cache.
    const Heads sizes = {.heads = 3, .kv_heads = 3, .head_dim = 16};
    ExpectForwardAgrees({{420, 1}, {420, 400}}, sizes, dtype, DType::kF32, device);
    // Every query sees all keys, also where they are fewer or none.
    ExpectForwardAgrees(
        {{1, 0, 1, 60, 33, 2, 100}, {9, 3, 0, 20, 0, 250, 100}, AttentionMask::kNone}, sizes, dtype,
        DType::kF32, device);
  }
}

TEST(AttentionTest, ForwardImplementationsAgreeWithTheReference) {
  ForEachSimdTarget([] { ExpectForwardsAgree(DeviceKind::kCpu); });
  ExpectForwardsAgree(DeviceKind::kCuda);
}

// Over the keys, of the probabilities with which the group's queries read one: dv where dout = 1.
double LargestSumOfProbabilities(const Lengths& lengths, const Heads& sizes, DType dtype) {
  Execution execution;
  AttentionCase c(lengths, sizes, dtype);
  c.dout = UniformTensor(c.q.shape(), 4, dtype, 1, 1);
  EXPECT_OK(reference::AttentionForward(execution, c.forward()));
  EXPECT_OK(reference::AttentionBackward(execution, c.backward()));
  return *std::ranges::max_element(c.dv.Converted(DType::kF64).values<double>());
}

void ExpectBackwardAgrees(const Lengths& lengths, const Heads& sizes, DType dtype, DType result,
                          DeviceKind device) {
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
  const double working = WorkingError(dtype);
  const double probability = 2 * ScoreError(expected) + 24 * working;
  const double dp = 2 * LargestRowNorm(expected.dout, sizes.head_dim) *
                    LargestRowNorm(expected.v, sizes.head_dim);
  const double summed = probability + (longest * group + sizes.head_dim) * working;
  const double weight = LargestSumOfProbabilities(lengths, sizes, dtype);
  for (const auto& implementation : AttentionBackwardImplementations()) {
    if (implementation.device != device) continue;
    SCOPED_TRACE(implementation.name);
    AttentionCase found(lengths, sizes, dtype, result);
    found.out = expected.out;
    found.log_sum_exp = expected.log_sum_exp;
    for (Tensor* gradient : {&found.dq, &found.dk, &found.dv})
      *gradient = UniformTensor(gradient->shape(), 5, result);  // must be overwritten
    if (!implementation.accepts(found.backward()).empty()) continue;
    ASSERT_OK(RunOn(execution, implementation, found.backward()));
    const double scale = found.layout().scale, output = 2 * RoundingError(result);
    const double terms = summed + FactorError(implementation.name, dtype);
    ExpectClose("dq", found.dq, expected.dq, output, 2 * terms * dp * scale);
    ExpectClose("dk", found.dk, expected.dk, output, 2 * terms * dp * scale * weight);
    ExpectClose("dv", found.dv, expected.dv, output, terms * weight);
  }
}

void ExpectBackwardsAgree(DeviceKind device) {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    for (const int64_t head_dim : {8, 20, 64, 80}) {
      const Heads sizes = {.heads = 2, .kv_heads = 1, .head_dim = head_dim};
      ExpectBackwardAgrees({1, 5, 33, 130}, sizes, dtype, dtype, device);
    }
    const Heads sizes = {.heads = 3, .kv_heads = 3, .head_dim = 16};
    ExpectBackwardAgrees({420, 1}, sizes, dtype, dtype, device);
    // Queries at the end of their documents; keys that none sees.
    const Heads grouped = {.heads = 4, .kv_heads = 2, .head_dim = 20};
    ExpectBackwardAgrees({{1, 5, 70, 33, 0, 110}, {9, 50, 260, 33, 30, 400}}, grouped, dtype,
                         DType::kF32, device);
    ExpectBackwardAgrees(
        {{1, 0, 1, 60, 33, 2, 100}, {9, 3, 0, 20, 0, 250, 100}, AttentionMask::kNone}, grouped,
        dtype, DType::kF32, device);
  }
}

TEST(AttentionTest, BackwardImplementationsAgreeWithTheReference) {
  ForEachSimdTarget([] { ExpectBackwardsAgree(DeviceKind::kCpu); });
  ExpectBackwardsAgree(DeviceKind::kCuda);
}

// Tiles of 16 to 64 rows that end inside of documents, at their ends, and one row beside them;
// heads of every width of tile and between them; most of a tile's keys out of sight.
const std::vector<Lengths> kTiledDocuments = {
    {15, 64, 65, 1, 129, 48},
    {{70, 1, 64, 0, 33}, {70, 140, 200, 20, 33}},
    {{63, 0, 64, 2, 40}, {65, 7, 0, 130, 16}, AttentionMask::kNone},
};

TEST(AttentionTest, DeviceKernelsAgreeWhereTilesEndInsideDocuments) {
  for (const Lengths& lengths : kTiledDocuments) {
    for (const auto& [dtype, result] : {std::pair{DType::kBf16, DType::kBf16},
                                        {DType::kBf16, DType::kF32},
                                        {DType::kF32, DType::kF32},
                                        {DType::kF64, DType::kF64}}) {
      const Heads sizes = {.heads = 4, .kv_heads = 2, .head_dim = 40};
      ExpectForwardAgrees(lengths, sizes, dtype, result, DeviceKind::kCuda);
      ExpectBackwardAgrees(lengths, sizes, dtype, result, DeviceKind::kCuda);
    }
  }
}

TEST(AttentionTest, DeviceKernelsAgreeForHeadsOfEveryWidth) {
  for (const DType dtype : {DType::kBf16, DType::kF32, DType::kF64}) {
    for (const int64_t head_dim : {1, 33, 64, 65, 112, 128, 129, 192, 255, 256}) {
      const Heads sizes = {.heads = 2, .kv_heads = 1, .head_dim = head_dim};
      ExpectForwardAgrees({{5, 37}, {5, 70}}, sizes, dtype, dtype, DeviceKind::kCuda);
      ExpectBackwardAgrees({{5, 37}, {5, 70}}, sizes, dtype, dtype, DeviceKind::kCuda);
    }
  }
}

TEST(AttentionTest, OwnDeviceKernelsRefuseHeadsOfMoreThan256Elements) {
  AttentionCase c({3}, {.heads = 1, .kv_heads = 1, .head_dim = 257}, DType::kF32);
  EXPECT_THAT(Named(AttentionForwardImplementations(), "cuda").accepts(c.forward()),
              HasSubstr("heads of more than 256 elements"));
  EXPECT_THAT(Named(AttentionBackwardImplementations(), "cuda").accepts(c.backward()),
              HasSubstr("heads of more than 256 elements"));
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
void ExpectDocumentsAreIsolated(const Runner& run, const std::vector<DType>& dtypes) {
  Execution execution({.num_threads = 2});
  const Heads sizes = {.heads = 2, .kv_heads = 1, .head_dim = 20};
  for (const DType dtype : dtypes) {
    AttentionCase alone({61}, sizes, dtype);
    ASSERT_OK(run.Forward(execution, alone.forward()));
    ASSERT_OK(run.Backward(execution, alone.backward()));
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
      ASSERT_OK(run.Forward(execution, packed.forward()));
      ASSERT_OK(run.Backward(execution, packed.backward()));
      ExpectSameBits("out", packed.out.Slice(begin, end), alone.out);
      ExpectSameBits("dq", packed.dq.Slice(begin, end), alone.dq);
      ExpectSameBits("dk", packed.dk.Slice(begin, end), alone.dk);
      ExpectSameBits("dv", packed.dv.Slice(begin, end), alone.dv);
    }
  }
}

TEST(AttentionTest, DocumentsAreIsolatedBitForBit) {
  ForEachSimdTarget([] { ExpectDocumentsAreIsolated({}, {DType::kBf16, DType::kF32}); });
  ExpectDocumentsAreIsolated({DeviceKind::kCuda}, {DType::kBf16, DType::kF32, DType::kF64});
}

TEST(AttentionTest, OwnDeviceKernelsRepeatBits) {
  Execution execution;
  const Runner run = {DeviceKind::kCuda};
  const Heads sizes = {.heads = 4, .kv_heads = 2, .head_dim = 20};
  for (const DType dtype : {DType::kBf16, DType::kF32, DType::kF64}) {
    AttentionCase a(kTiledDocuments[1], sizes, dtype), b(kTiledDocuments[1], sizes, dtype);
    for (AttentionCase* c : {&a, &b}) {
      ASSERT_OK(run.Forward(execution, c->forward()));
      ASSERT_OK(run.Backward(execution, c->backward()));
    }
    ExpectSameBits("out", a.out, b.out);
    ExpectSameBits("log_sum_exp", a.log_sum_exp, b.log_sum_exp);
    ExpectSameBits("dq", a.dq, b.dq);
    ExpectSameBits("dk", a.dk, b.dk);
    ExpectSameBits("dv", a.dv, b.dv);
  }
}

// q, k and v beside each other, from the column `before` on.
void ExpectColumnsOfWiderMatricesServe(const Runner& run, int64_t dim, int64_t before) {
  Execution execution({.num_threads = 2});
  const int64_t width = before + 3 * dim;
  AttentionCase apart({5, 60}, {.heads = 1, .kv_heads = 1, .head_dim = dim}, DType::kBf16);
  AttentionCase together({5, 60}, {.heads = 1, .kv_heads = 1, .head_dim = dim}, DType::kBf16);
  Tensor qkv = Tensor::OnHost(DType::kBf16, {65, width});
  Tensor gradient = Tensor::OnHost(DType::kBf16, {65, width});
  const auto copy = [&](const Tensor& from, int64_t column) {
    for (int64_t t = 0; t < 65; ++t)
      std::copy_n(from.data<BFloat16>() + t * dim, dim,
                  qkv.data<BFloat16>() + t * width + before + column);
  };
  copy(apart.q, 0);
  copy(apart.k, dim);
  copy(apart.v, 2 * dim);
  ASSERT_OK(run.Forward(execution, apart.forward()));
  ASSERT_OK(run.Backward(execution, apart.backward()));
  AttentionForwardArgs forward = together.forward();
  AttentionBackwardArgs backward = together.backward();
  forward.q = backward.q = qkv.columns(before, dim);
  forward.k = backward.k = qkv.columns(before + dim, dim);
  forward.v = backward.v = qkv.columns(before + 2 * dim, dim);
  backward.dq = gradient.columns(before, dim);
  backward.dk = gradient.columns(before + dim, dim);
  backward.dv = gradient.columns(before + 2 * dim, dim);
  ASSERT_OK(run.Forward(execution, forward));
  ASSERT_OK(run.Backward(execution, backward));
  ExpectSameBits("out", together.out, apart.out);
  const auto expect = [&](const char* name, const Tensor& expected, int64_t column) {
    Tensor found = Tensor::OnHost(DType::kBf16, {65, dim});
    for (int64_t t = 0; t < 65; ++t)
      std::copy_n(gradient.data<BFloat16>() + t * width + before + column, dim,
                  found.data<BFloat16>() + t * dim);
    ExpectSameBits(name, found, expected);
  };
  expect("dq", apart.dq, 0);
  expect("dk", apart.dk, dim);
  expect("dv", apart.dv, 2 * dim);
}

TEST(AttentionTest, ReadsAndWritesColumnsOfWiderMatrices) {
  ExpectColumnsOfWiderMatricesServe({}, 20, 0);
  // Rows that can be read 16 bytes at a time, and the same ones where they cannot.
  for (const int64_t before : {0, 8, 1}) {
    SCOPED_TRACE(before);
    ExpectColumnsOfWiderMatricesServe({DeviceKind::kCuda}, 64, before);
  }
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
