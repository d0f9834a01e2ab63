#include "model/decoding/decoding_session.h"

#include <algorithm>

#include "tests/support/tensor_matchers.h"
#include "tests/support/tiny_model.h"

namespace plait {
namespace {

// Logits after each prefix, from the whole prefix at once and without a cache.
Tensor UncachedLogits(ModelUnderTest& m, const std::vector<int32_t>& ids) {
  const Tensor tokens = Tensor::FromValues<int32_t>({static_cast<int64_t>(ids.size())}, ids);
  const SequenceLayout layout = SequenceLayout::Continuation(static_cast<int64_t>(ids.size()), 0,
                                                             StatisticsDType(m.model->dtype()));
  auto hidden = m.model->Forward(m.execution, *m.sharder, tokens, layout, nullptr, nullptr);
  PLAIT_CHECK(hidden.ok());
  auto logits = m.model->head().Logits(m.execution, *hidden);
  PLAIT_CHECK(logits.ok());
  return *logits;
}

int64_t ArgMax(const Tensor& logits) {
  const Tensor values = logits.Converted(DType::kF64);
  return std::ranges::max_element(values.values<double>()) - values.values<double>().begin();
}

TEST(DecodingSessionTest, CachedLogitsEqualUncachedOnes) {
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const ModelShape& shape : {TinyJamba(), OddJamba(), TinyLlama()}) {
      ModelUnderTest m(shape, dtype);
      const std::vector<int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4};
      const Tensor expected = UncachedLogits(m, ids);
      // Token by token, and a prompt in pieces shorter and longer than the convolution.
      for (const std::vector<int64_t>& pieces :
           {std::vector<int64_t>(20, 1), std::vector<int64_t>{7, 1, 2, 10},
            std::vector<int64_t>{20}}) {
        DecodingSession session(m.execution, *m.model, *m.sharder, 20);
        int64_t at = 0;
        for (const int64_t piece : pieces) {
          ASSERT_OK_AND_ASSIGN(const Tensor logits,
                               session.Append({ids.data() + at, static_cast<size_t>(piece)}));
          at += piece;
          const Tensor reference = expected.Slice(at - 1, at);
          ExpectClose("logits", logits, reference, dtype == DType::kF64 ? 1e-12 : 2e-5);
          EXPECT_EQ(ArgMax(logits), ArgMax(reference));
        }
      }
    }
  }
}

TEST(DecodingSessionTest, RefusesMoreTokensThanItsCapacity) {
  ModelUnderTest m(TinyLlama(), DType::kF32);
  DecodingSession session(m.execution, *m.model, *m.sharder, 3);
  const std::vector<int32_t> ids = {1, 2, 3, 4};
  EXPECT_THAT(session.Append(ids),
              StatusIs(absl::StatusCode::kOutOfRange, ::testing::HasSubstr("longer than")));
  EXPECT_THAT(session.Append({}),
              StatusIs(absl::StatusCode::kInvalidArgument, ::testing::HasSubstr("no tokens")));
}

}  // namespace
}  // namespace plait
