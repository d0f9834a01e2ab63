#include "model/sequence_layout.h"

#include <gmock/gmock.h>

#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<SequenceLayout> LayoutOf(const std::vector<int32_t>& tokens,
                                        const std::vector<int32_t>& offsets) {
  return SequenceLayout::Create(
      Tensor::FromValues<int32_t>({static_cast<int64_t>(tokens.size())}, tokens),
      Tensor::FromValues<int32_t>({static_cast<int64_t>(offsets.size())}, offsets), DType::kF64);
}

TEST(SequenceLayoutTest, PositionsBeginAnewWithEveryDocumentAndPaddingDoesNotCount) {
  ASSERT_OK_AND_ASSIGN(const SequenceLayout layout, LayoutOf({5, 6, 7, 8, -1, -1}, {0, 3, 4, 6}));
  EXPECT_THAT(layout.positions.values<int32_t>(), ElementsAre(0, 1, 2, 0, 0, 1));
  EXPECT_EQ(layout.documents(), 3);
  EXPECT_EQ(layout.tokens, 6);
  EXPECT_EQ(layout.real_tokens, 4);
  EXPECT_THAT(layout.real.values<double>(), ElementsAre(1, 1, 1, 1, 0, 0));
}

TEST(SequenceLayoutTest, RefusesOffsetsThatDoNotRiseFromZeroToTheEnd) {
  for (const std::vector<int32_t>& offsets :
       {std::vector<int32_t>{}, {0}, {1, 3}, {0, 2}, {0, 4}, {0, 2, 2, 3}, {0, 2, 1, 3}}) {
    EXPECT_THAT(LayoutOf({5, 6, 7}, offsets).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("document_offsets")));
  }
}

TEST(SequenceLayoutTest, AContinuationGoesOnFromItsFirstPosition) {
  const SequenceLayout layout = SequenceLayout::Continuation(3, 10, DType::kF32);
  EXPECT_THAT(layout.positions.values<int32_t>(), ElementsAre(10, 11, 12));
  EXPECT_THAT(layout.document_offsets, ElementsAre(0, 3));
  EXPECT_THAT(layout.real.values<float>(), ElementsAre(1, 1, 1));
}

}  // namespace
}  // namespace plait
