#include "trainer/packing_check.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace plait {
namespace {

TEST(PackingCheckTest, DocumentsDoNotSeeOneAnother) {
  for (const CheckedLayout& layout : PackingLayouts()) {
    for (const CheckedModel model : layout.models) {
      for (const DType precision : {DType::kBf16, DType::kF32, DType::kF64}) {
        SCOPED_TRACE(layout.name() + " " + std::string(Name(model)));
        ASSERT_OK_AND_ASSIGN(const PackingVerdict verdict, CheckPacking(model, precision, layout));
        EXPECT_GE(verdict.documents, layout.ranks() == 1 ? 11 : 4);
        EXPECT_EQ(verdict.differing_outputs, 0);
        EXPECT_EQ(verdict.differing_gradients, 0);
      }
    }
  }
}

TEST(PackingCheckTest, OneDocumentInsteadOfTwoIsNoticed) {
  for (const CheckedLayout& layout : PackingLayouts()) {
    for (const CheckedModel model : layout.models) {
      SCOPED_TRACE(layout.name() + " " + std::string(Name(model)));
      ASSERT_OK_AND_ASSIGN(const PackingVerdict verdict,
                           CheckPacking(model, DType::kF32, layout, PackingFault::kOneDocument));
      EXPECT_FALSE(verdict.ok());
      EXPECT_GT(verdict.differing_outputs, 3 * 20);
      EXPECT_GT(verdict.differing_gradients, 3 * 100);
    }
  }
}

}  // namespace
}  // namespace plait
