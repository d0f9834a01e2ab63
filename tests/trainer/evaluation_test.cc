#include "trainer/evaluation.h"

#include <gtest/gtest.h>

#include <algorithm>
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

  static absl::StatusOr<EvaluationResult> Run(const Evaluation& evaluation, Execution& execution,
                                              ModelRuntime& runtime) {
    return evaluation.Run(execution, runtime, [](double) { return true; });
  }

  EvaluationOptions Options(int64_t row_tokens, int64_t rows_per_batch) {
    return {.folder = data_.path(), .row_tokens = row_tokens, .rows_per_batch = rows_per_batch};
  }

  // Of a fresh model, in double precision.
  absl::StatusOr<EvaluationResult> Evaluate(const EvaluationOptions& options,
                                            const std::shared_ptr<Communicator>& world,
                                            const std::vector<std::string>& layout) {
    Execution execution{{.num_threads = 1}};
    std::vector<std::string> overrides = {"trainer.precision=F64", "model.attention.kv_heads=2",
                                          "model.tied_embeddings=false"};
    overrides.insert(overrides.end(), layout.begin(), layout.end());
    const recipe::v1::Recipe recipe = TinyRecipe(data_.path(), overrides, world->size());
    PLAIT_ASSIGN_OR_RETURN(ModelRuntime runtime, ModelRuntime::Create(execution, recipe, world));
    PLAIT_RETURN_IF_ERROR(runtime.model->Initialize(*runtime.sharder, /*seed=*/1));
    PLAIT_ASSIGN_OR_RETURN(const auto evaluation, Evaluation::Create(options));
    return Run(*evaluation, execution, runtime);
  }

  TinyData data_;
  Execution execution_;
  ModelRuntime runtime_;
};

TEST_F(EvaluationTest, BitsPerByteOfTheUniformModelAreExact) {
  // All parameters zero: every logit is 0 and every token costs log(vocabulary).
  ASSERT_OK_AND_ASSIGN(const auto evaluation, Evaluation::Create(Options(32, 2)));
  ASSERT_OK_AND_ASSIGN(const EvaluationResult result, Run(*evaluation, execution_, runtime_));
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
  ASSERT_OK_AND_ASSIGN(const EvaluationResult a, Run(*one, execution_, runtime_));
  ASSERT_OK_AND_ASSIGN(const EvaluationResult b, Run(*many, execution_, runtime_));
  EXPECT_NEAR(a.loss, b.loss, 1e-12);
  EXPECT_EQ(a.tokens, b.tokens);
}

// Seven rows of 31 tokens, two a batch: the last has one, which does not divide among two ranks.
TEST_F(EvaluationTest, ALastBatchThatDoesNotDivideAmongTheRanksIsCountedWhole) {
  EvaluationOptions options = Options(31, 2);
  options.max_tokens = 7 * 31;
  ASSERT_OK_AND_ASSIGN(const EvaluationResult one,
                       Evaluate(options, MakeSingleRankCommunicator(), {}));
  ASSERT_GT(one.tokens, 6 * 31);
  for (const char* layout : {"parallel.tensor=2", "parallel.context=2"}) {
    EXPECT_OK(RunLocalRanks(2, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
      PLAIT_ASSIGN_OR_RETURN(const EvaluationResult two, Evaluate(options, world, {layout}));
      EXPECT_NEAR(two.loss, one.loss, 1e-11 * one.loss) << layout;
      EXPECT_EQ(two.tokens, one.tokens) << layout;
      EXPECT_EQ(two.text_bytes, one.text_bytes) << layout;
      return absl::OkStatus();
    })) << layout;
  }
}

// Long enough for several questions: the pipeline runs empty at each.
TEST_F(EvaluationTest, IsTheSameOnStagesAndReplicas) {
  EvaluationOptions options = Options(4, 1);
  options.max_tokens = 81 * 4;
  ASSERT_OK_AND_ASSIGN(const EvaluationResult one,
                       Evaluate(options, MakeSingleRankCommunicator(), {}));
  ASSERT_GT(one.tokens, 80 * 4);
  for (const std::vector<std::string>& layout :
       {std::vector<std::string>{"parallel.pipeline=2"},
        {"parallel.pipeline=2", "parallel.pipeline_chunks=2"},
        {"parallel.replicate=2"}}) {
    SCOPED_TRACE(layout.back());
    EXPECT_OK(RunLocalRanks(2, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
      PLAIT_ASSIGN_OR_RETURN(const EvaluationResult two, Evaluate(options, world, layout));
      EXPECT_NEAR(two.loss, one.loss, 1e-11 * one.loss);
      EXPECT_EQ(two.tokens, one.tokens);
      EXPECT_EQ(two.text_bytes, one.text_bytes);
      return absl::OkStatus();
    }));
  }
}

TEST_F(EvaluationTest, EndsWhereItsCallerSaysSoWithWhatItKnows) {
  ASSERT_OK(runtime_.model->Initialize(*runtime_.sharder, /*seed=*/1));
  ASSERT_OK_AND_ASSIGN(const auto evaluation, Evaluation::Create(Options(4, 1)));
  std::vector<double> asked;
  const auto go_on_until = [&asked](size_t questions) {
    return [&asked, questions](double done) {
      asked.push_back(done);
      return asked.size() < questions;
    };
  };
  ASSERT_OK_AND_ASSIGN(const EvaluationResult whole,
                       evaluation->Run(execution_, runtime_, go_on_until(1000)));
  EXPECT_TRUE(whole.is_whole);
  ASSERT_GT(asked.size(), 3u);
  EXPECT_TRUE(std::is_sorted(asked.begin(), asked.end()));
  EXPECT_GT(asked.front(), 0);
  EXPECT_LT(asked.back(), 1);
  asked.clear();
  ASSERT_OK_AND_ASSIGN(const EvaluationResult part,
                       evaluation->Run(execution_, runtime_, go_on_until(2)));
  EXPECT_FALSE(part.is_whole);
  EXPECT_EQ(asked.size(), 2u);
  EXPECT_EQ(part.tokens, 2 * 16 * 4);
  EXPECT_NEAR(part.loss, whole.loss, 0.1 * whole.loss);
  const absl::Status error = absl::UnavailableError("a rank is gone");
  EXPECT_EQ(evaluation->Run(execution_, runtime_, [&](double) { return error; }).status(), error);
}

TEST_F(EvaluationTest, ChangesNothing) {
  ASSERT_OK(runtime_.model->Initialize(*runtime_.sharder, /*seed=*/1));
  std::vector<Tensor> before;
  for (const ShardedParameter& parameter : runtime_.sharder->sharded())
    before.push_back(parameter.master.Clone());
  ASSERT_OK_AND_ASSIGN(const auto evaluation, Evaluation::Create(Options(32, 2)));
  ASSERT_OK(Run(*evaluation, execution_, runtime_));
  size_t i = 0;
  for (const ShardedParameter& parameter : runtime_.sharder->sharded())
    ExpectSameBits(parameter.name, parameter.master, before[i++]);
}

}  // namespace
}  // namespace plait
