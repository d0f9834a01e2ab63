#include "trainer/packing_check.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace plait {
namespace {

TEST(PackingCheckTest, DocumentsDoNotSeeOneAnother) {
  for (const CheckedModel model : {CheckedModel::kJamba, CheckedModel::kLlama}) {
    for (const DType precision : {DType::kBf16, DType::kF32, DType::kF64}) {
      ASSERT_OK_AND_ASSIGN(const PackingVerdict verdict, CheckPacking(model, precision));
      EXPECT_GE(verdict.documents, 10);
      EXPECT_EQ(verdict.differing_outputs, 0) << Name(model);
      EXPECT_EQ(verdict.differing_gradients, 0) << Name(model);
    }
  }
}

TEST(PackingCheckTest, OneDocumentInsteadOfTwoIsNoticed) {
  for (const CheckedModel model : {CheckedModel::kJamba, CheckedModel::kLlama}) {
    ASSERT_OK_AND_ASSIGN(const PackingVerdict verdict,
                         CheckPacking(model, DType::kF32, PackingFault::kOneDocument));
    EXPECT_FALSE(verdict.ok());
    EXPECT_GT(verdict.differing_outputs, 9 * 20) << Name(model);
    EXPECT_GT(verdict.differing_gradients, 9 * 100) << Name(model);
  }
}

}  // namespace
}  // namespace plait
