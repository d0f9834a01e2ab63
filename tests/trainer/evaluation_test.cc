#include "trainer/evaluation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "data/prepared_tokens.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"
#include "tests/support/tiny_run.h"

namespace plait {
namespace {

class EvaluationTest : public ::testing::Test {
 protected:
  EvaluationTest() : execution_({.num_threads = 1}) {
    auto runtime =
        ModelRuntime::Create(execution_, TinyRecipe(data_.path(), {"trainer.precision=F64"}));
    PLAIT_CHECK(runtime.ok());
    runtime_ = *std::move(runtime);
  }

  EvaluationOptions Options(int64_t row_tokens, int64_t rows_per_batch) {
    return {.folder = data_.path(), .row_tokens = row_tokens, .rows_per_batch = rows_per_batch};
  }

  TinyData data_;
  Execution execution_;
  ModelRuntime runtime_;
};

TEST_F(EvaluationTest, BitsPerByteOfTheUniformModelAreExact) {
  // All parameters zero: every logit is 0 and every token costs log(vocabulary).
  ASSERT_OK_AND_ASSIGN(const auto evaluation, Evaluation::Create(Options(32, 2)));
  ASSERT_OK_AND_ASSIGN(const EvaluationResult result, evaluation->Run(execution_, runtime_));
  ASSERT_OK_AND_ASSIGN(const PreparedTokens heldout,
                       PreparedTokens::Open(data_.path(), DataSplit::kHeldout));
  // Every token but each document's first is predicted once.
  const auto predicted = static_cast<double>(heldout.num_tokens() - heldout.num_documents());
  int64_t text_bytes = 0;
  for (const ManifestShard& shard : heldout.manifest().heldout) text_bytes += shard.text_bytes;
  EXPECT_EQ(result.weight_sum, predicted);
  EXPECT_EQ(result.text_bytes, text_bytes);
  EXPECT_NEAR(result.loss, std::log(kTinyVocabulary), 1e-12);
  EXPECT_NEAR(result.bits_per_byte,
              predicted * std::log2(kTinyVocabulary) / static_cast<double>(text_bytes), 1e-12);
}

TEST_F(EvaluationTest, DoesNotDependOnHowRowsAreGrouped) {
  ASSERT_OK(runtime_.model->Initialize(*runtime_.sharder, /*seed=*/1));
  ASSERT_OK_AND_ASSIGN(const auto one, Evaluation::Create(Options(32, 1)));
  ASSERT_OK_AND_ASSIGN(const auto many, Evaluation::Create(Options(32, 5)));
  ASSERT_OK_AND_ASSIGN(const EvaluationResult a, one->Run(execution_, runtime_));
  ASSERT_OK_AND_ASSIGN(const EvaluationResult b, many->Run(execution_, runtime_));
  EXPECT_NEAR(a.loss, b.loss, 1e-12);
  EXPECT_EQ(a.tokens, b.tokens);
}

TEST_F(EvaluationTest, ChangesNothing) {
  ASSERT_OK(runtime_.model->Initialize(*runtime_.sharder, /*seed=*/1));
  std::vector<Tensor> before;
  for (const ShardedParameter& parameter : runtime_.sharder->sharded())
    before.push_back(parameter.master.Clone());
  ASSERT_OK_AND_ASSIGN(const auto evaluation, Evaluation::Create(Options(32, 2)));
  ASSERT_OK(evaluation->Run(execution_, runtime_));
  size_t i = 0;
  for (const ShardedParameter& parameter : runtime_.sharder->sharded())
    ExpectSameBits(parameter.name, parameter.master, before[i++]);
}

}  // namespace
}  // namespace plait
