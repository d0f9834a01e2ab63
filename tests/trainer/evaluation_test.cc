#include "trainer/evaluation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "base/status_macros.h"
#include "data/prepared_tokens.h"
#include "parallel/local_communicator.h"
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

// Seven rows of 31 tokens, two a batch: the last has one, which does not divide among two ranks.
TEST_F(EvaluationTest, ALastBatchThatDoesNotDivideAmongTheRanksIsCountedWhole) {
  EvaluationOptions options = Options(31, 2);
  options.max_tokens = 7 * 31;
  const auto evaluate = [&](const std::shared_ptr<Communicator>& world,
                            const std::string& layout) -> absl::StatusOr<EvaluationResult> {
    Execution execution{{.num_threads = 1}};
    const recipe::v1::Recipe recipe =
        TinyRecipe(data_.path(), {"trainer.precision=F64", "model.attention.kv_heads=2", layout},
                   world->size());
    PLAIT_ASSIGN_OR_RETURN(ModelRuntime runtime, ModelRuntime::Create(execution, recipe, world));
    PLAIT_RETURN_IF_ERROR(runtime.model->Initialize(*runtime.sharder, /*seed=*/1));
    PLAIT_ASSIGN_OR_RETURN(const auto evaluation, Evaluation::Create(options));
    return evaluation->Run(execution, runtime);
  };
  ASSERT_OK_AND_ASSIGN(const EvaluationResult one,
                       evaluate(MakeSingleRankCommunicator(), "parallel.tensor=1"));
  ASSERT_GT(one.tokens, 6 * 31);
  for (const char* layout : {"parallel.tensor=2", "parallel.context=2"}) {
    EXPECT_OK(RunLocalRanks(2, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
      PLAIT_ASSIGN_OR_RETURN(const EvaluationResult two, evaluate(world, layout));
      EXPECT_NEAR(two.loss, one.loss, 1e-11 * one.loss) << layout;
      EXPECT_EQ(two.tokens, one.tokens) << layout;
      EXPECT_EQ(two.text_bytes, one.text_bytes) << layout;
      return absl::OkStatus();
    })) << layout;
  }
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
