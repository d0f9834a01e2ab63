// How cuDNN is asked for an attention. What cuDNN answers is tested by kernels_attention_gpu_test.
#include "kernels/cuda/cudnn_attention_calls.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "kernels/cuda/attention_statistics.h"
#include "tests/kernels/attention_case.h"
#include "tests/support/device_execution.h"
#include "tests/support/status_matchers.h"

namespace plait::cuda {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr Heads kHeads = {.heads = 12, .kv_heads = 6, .head_dim = 16};

TEST(CudnnAttentionCallsTest, ForwardIsOneCallOfAllDocumentsThatHaveQueries) {
  AttentionCase c(Lengths({300, 0, 5, 1}, {300, 7, 600, 1}), kHeads, DType::kBf16);
  const std::vector<CudnnAttentionCall> calls = CudnnForwardCalls(c.layout());
  ASSERT_EQ(calls.size(), 1);
  EXPECT_THAT(calls[0].documents, ElementsAre(0, 2, 3));
  EXPECT_EQ(calls[0].first_kv_head, 0);
  EXPECT_EQ(calls[0].kv_heads, 6);
  EXPECT_EQ(calls[0].batch, 4);
  EXPECT_EQ(calls[0].queries, 512);
  EXPECT_EQ(calls[0].keys, 1024);
}

TEST(CudnnAttentionCallsTest, WithoutQueriesThereIsNoCall) {
  AttentionCase c(Lengths({0, 0}, {3, 0}), kHeads, DType::kBf16);
  EXPECT_TRUE(CudnnForwardCalls(c.layout()).empty());
  EXPECT_TRUE(CudnnBackwardCalls(c.layout(), 1).empty());
}

// Two query heads read each of the key heads: a document of up to 128 rows takes 128 x 128 x 2 x 2
// bytes a key head.
constexpr int64_t kShortBytes = 128 * 128 * 2 * 2;

TEST(CudnnAttentionCallsTest, BackwardIsOneCallWhereScoresFit) {
  AttentionCase c({100, 90, 3}, kHeads, DType::kBf16);
  EXPECT_EQ(CudnnBackwardCalls(c.layout(), 4 * 6 * kShortBytes).size(), 1);
  EXPECT_GT(CudnnBackwardCalls(c.layout(), 4 * 6 * kShortBytes - 1).size(), 1);
}

// Every pair of document and key head once, scores within the limit, documents of a call alike.
TEST(CudnnAttentionCallsTest, BackwardCallsCoverAllWithinTheLimit) {
  AttentionCase c(Lengths({100, 500, 3, 128, 129, 1, 0, 260}, {100, 500, 3, 300, 129, 1, 0, 260}),
                  kHeads, DType::kBf16);
  const AttentionLayout layout = c.layout();
  // From where the longest document fits with one key head.
  for (const int64_t limit : {16 * kShortBytes, 35 * kShortBytes, 64 * kShortBytes,
                              100 * kShortBytes, 400 * kShortBytes}) {
    SCOPED_TRACE(limit / kShortBytes);
    std::map<std::pair<int64_t, int64_t>, int> covered;
    for (const CudnnAttentionCall& call : CudnnBackwardCalls(layout, limit)) {
      EXPECT_LE(CudnnScoreBytes(layout, call), limit);
      EXPECT_EQ(layout.kv_heads % call.kv_heads, 0);
      EXPECT_GE(call.batch, static_cast<int64_t>(call.documents.size()));
      EXPECT_TRUE(std::ranges::is_sorted(call.documents));
      for (const int64_t s : call.documents) {
        const int64_t queries = c.query_offsets[s + 1] - c.query_offsets[s];
        const int64_t keys = c.key_offsets[s + 1] - c.key_offsets[s];
        EXPECT_LE(queries, call.queries);
        EXPECT_LE(keys, call.keys);
        EXPECT_GT(2 * std::max<int64_t>(queries, 128), call.queries);
        EXPECT_GT(2 * std::max<int64_t>(keys, 128), call.keys);
        for (int64_t head = 0; head < call.kv_heads; ++head) {
          ++covered[{s, call.first_kv_head + head}];
        }
      }
    }
    for (const int64_t s : {0, 1, 2, 3, 4, 5, 7}) {
      for (int64_t head = 0; head < 6; ++head) {
        EXPECT_EQ((covered[{s, head}]), 1) << s << " " << head;
      }
    }
    EXPECT_EQ(covered.size(), 7 * 6);
  }
}

TEST(CudnnAttentionCallsTest, DocumentsTooLongForTheLimitKeepAllHeads) {
  AttentionCase c({100, 500}, kHeads, DType::kBf16);
  const auto calls = CudnnBackwardCalls(c.layout(), 15 * kShortBytes);
  ASSERT_EQ(calls.size(), 2);
  EXPECT_THAT(calls[1].documents, ElementsAre(1));
  EXPECT_EQ(calls[1].kv_heads, 6);
  EXPECT_THAT(CudnnRefuses(c.backward(), 15 * kShortBytes),
              HasSubstr("512 queries and 512 keys would take 6291456 bytes"));
  EXPECT_EQ(CudnnRefuses(c.backward(), 0), "");
}

TEST(CudnnAttentionCallsTest, WordsAreOffsetsInElementsAndLengths) {
  AttentionCase c(Lengths({5, 0, 7, 2}, {6, 1, 9, 2}), kHeads, DType::kBf16);
  CudnnAttentionCall call;
  call.documents = {0, 2, 3};
  call.batch = 4;
  const CudnnCallWords found =
      WordsOf(c.layout(), call, {{.of_keys = false, .row_stride = 10}, {true, 3}});
  EXPECT_FALSE(found.wide);
  EXPECT_THAT(found.offsets, ElementsAre(0, 5));
  EXPECT_THAT(found.words, ElementsAre(0, 50, 120, 140, 140,  //
                                       0, 21, 48, 54, 54,     //
                                       5, 7, 2, 0,            //
                                       6, 9, 2, 0));
  EXPECT_EQ(found.query_lengths, 10);
  EXPECT_EQ(found.key_lengths, 14);
}

TEST(CudnnAttentionCallsTest, OffsetsFrom2To31OnAreOf8Bytes) {
  const std::vector<int32_t> offsets = {0, 3, 1 << 20};
  const AttentionLayout layout = {.heads = 1,
                                  .kv_heads = 1,
                                  .head_dim = 8,
                                  .documents = 2,
                                  .query_offsets = offsets.data(),
                                  .key_offsets = offsets.data()};
  const CudnnAttentionCall call = CudnnForwardCalls(layout)[0];
  EXPECT_FALSE(WordsOf(layout, call, {{false, 2047}}).wide);
  const CudnnCallWords found = WordsOf(layout, call, {{false, 2048}, {true, 8}});
  EXPECT_TRUE(found.wide);
  EXPECT_THAT(found.offsets, ElementsAre(0, 6));
  int64_t values[6];
  std::memcpy(values, found.words.data(), sizeof(values));
  EXPECT_THAT(values, ElementsAre(0, 6144, int64_t{1} << 31, 0, 24, 8 << 20));
  EXPECT_EQ(found.query_lengths, 12);
}

TEST(CudnnAttentionCallsTest, RefusesWhatCudnnCannotExpress) {
  const Lengths lengths = {3, 4};
  const auto forward = [](AttentionCase c) { return CudnnRefuses(c.forward()); };
  EXPECT_EQ(forward({lengths, kHeads, DType::kBf16}), "");
  EXPECT_EQ(forward({lengths, kHeads, DType::kF32}), "dtypes other than bf16");
  EXPECT_EQ(forward({lengths, kHeads, DType::kBf16, DType::kF32}),
            "results that are not rounded to bf16");
  EXPECT_EQ(forward({lengths, {2, 1, 264}, DType::kBf16}), "heads of more than 256 elements");
  EXPECT_EQ(forward({lengths, {4, 2, 20}, DType::kBf16}), "head_dim that is no multiple of 8");
  EXPECT_EQ(forward({Lengths({3, 1}, {3, 0}, AttentionMask::kNone), kHeads, DType::kBf16}),
            "documents with queries but no keys");
  EXPECT_EQ(forward({Lengths({3, 0}, {3, 2}), kHeads, DType::kBf16}), "");
  AttentionCase unseen(Lengths({3, 0}, {3, 2}), kHeads, DType::kBf16);
  EXPECT_EQ(CudnnRefuses(unseen.backward(), 0), "documents with keys but no queries");
  AttentionCase c(lengths, kHeads, DType::kBf16);
  AttentionForwardArgs shifted = c.forward();
  shifted.q.data = static_cast<const BFloat16*>(shifted.q.data) + 1;
  EXPECT_EQ(CudnnRefuses(shifted), "rows that do not begin at multiples of 16 bytes");
}

TEST(CudnnAttentionCallsTest, StatisticsAreTransposed) {
  Execution& execution = *CudaExecution();
  for (const auto& [rows, columns] : {std::pair{1, 1}, {33, 31}, {70, 64}, {5, 700}}) {
    const Tensor from = UniformTensor({rows, columns + 3}, 1, DType::kF32);
    Tensor to = UniformTensor({columns, rows + 2}, 2, DType::kF32);
    const Tensor before = to.Clone();
    ASSERT_OK(TransposeStatistics(execution, from.columns(1, columns), to.columns(2, rows)));
    ASSERT_OK(execution.compute().Synchronize());
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = 0; r < rows + 2; ++r) {
        const float* expected = r < 2 ? before.data<float>() + c * (rows + 2) + r
                                      : from.data<float>() + (r - 2) * (columns + 3) + c + 1;
        EXPECT_EQ(to.data<float>()[c * (rows + 2) + r], *expected) << r << " " << c;
      }
    }
  }
}

}  // namespace
}  // namespace plait::cuda
