#include "trainer/training_step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/random.h"
#include "data/sequence_packing.h"
#include "optim/adamw.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"
#include "tests/support/tiny_run.h"
#include "trainer/pretraining_objective.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kRowTokens = 12;

// The tiny recipe's model at some precision, ready to step.
struct StepUnderTest {
  explicit StepUnderTest(std::vector<std::string> overrides, double clip_norm = 0) {
    const recipe::v1::Recipe recipe = TinyRecipe("unused", overrides);
    auto created = ModelRuntime::Create(execution, recipe);
    PLAIT_CHECK(created.ok());
    runtime = *std::move(created);
    PLAIT_CHECK(runtime.model->Initialize(*runtime.sharder, recipe.seed()).ok());
    auto adamw = AdamW::Create(execution, recipe.optim().adamw(), runtime.sharder->sharded());
    PLAIT_CHECK(adamw.ok());
    optimizer = *std::move(adamw);
    step = std::make_unique<TrainingStep>(execution, runtime, *optimizer, objective, clip_norm);
  }

  // Masters or gradients, by parameter.
  std::vector<Tensor> Copies(Tensor ShardedParameter::*member) {
    std::vector<Tensor> copies;
    for (const ShardedParameter& parameter : runtime.sharder->sharded())
      copies.push_back((parameter.*member).Clone());
    return copies;
  }
  const std::string& NameOf(size_t i) { return runtime.sharder->sharded()[i].name; }

  Execution execution{{.num_threads = 1}};
  ModelRuntime runtime;
  std::unique_ptr<AdamW> optimizer;
  PretrainingObjective objective;
  std::unique_ptr<TrainingStep> step;
};

// An SFT-like row: a prompt of weight 0, then an answer whose tokens count, with weights of their
// own. The answer repeats one word, so that it can be learned; the prompt is noise. Some rows end
// in padding.
Row MaskedRow(uint64_t seed) {
  const RandomKey key(seed, RandomPurpose::kTest, "masked row");
  Row row;
  const int64_t tokens = kRowTokens - static_cast<int64_t>(seed % 3);
  for (int64_t t = 0; t < tokens; ++t) {
    const bool answer = t >= tokens / 2;
    row.tokens.push_back(answer ? 7 : static_cast<int32_t>(key.Words(t)[0] % kTinyVocabulary));
    row.targets.push_back(7);
    row.weights.push_back(answer ? 0.5f + static_cast<float>(t % 3) : 0.0f);
  }
  row.document_starts = {0, 2};
  row.weights[1] = 0;
  return row;
}

// Rows 0 ... rows - 1 cut into microbatches of these sizes.
std::vector<Batch> Partition(const std::vector<int>& sizes) {
  std::vector<Batch> batches;
  uint64_t row = 0;
  for (const int size : sizes) {
    std::vector<Row> rows;
    for (int i = 0; i < size; ++i) rows.push_back(MaskedRow(row++));
    batches.push_back(PackRows(rows, kRowTokens));
  }
  return batches;
}

TEST(TrainingStepTest, AnyPartitionOfTheRowsGivesTheSameGradient) {
  // The balance loss pools over a microbatch by definition: off. z and activation losses stay.
  const std::vector<std::string> overrides = {"trainer.precision=F64",
                                              "model.experts.balance_loss_coefficient=0"};
  StepUnderTest whole(overrides);
  ASSERT_OK_AND_ASSIGN(const StepResult expected, whole.step->Run(Partition({6}), 0.0));
  const std::vector<Tensor> gradients = whole.Copies(&ShardedParameter::gradient);
  for (const std::vector<int>& sizes :
       {std::vector<int>{1, 1, 1, 1, 1, 1}, {2, 4}, {3, 3}, {5, 1}}) {
    StepUnderTest parts(overrides);
    ASSERT_OK_AND_ASSIGN(const StepResult result, parts.step->Run(Partition(sizes), 0.0));
    EXPECT_NEAR(result.language_model_loss, expected.language_model_loss, 1e-11);
    EXPECT_NEAR(result.z_loss, expected.z_loss, 1e-11);
    EXPECT_NEAR(result.activation_loss, expected.activation_loss, 1e-11);
    EXPECT_NEAR(result.gradient_norm, expected.gradient_norm, 1e-11 * expected.gradient_norm);
    const std::vector<Tensor> found = parts.Copies(&ShardedParameter::gradient);
    for (size_t i = 0; i < found.size(); ++i)
      ExpectClose(parts.NameOf(i), found[i], gradients[i], /*relative=*/1e-11);
  }
}

TEST(TrainingStepTest, TrainsOnWeightedTokensOverSeveralMicrobatches) {
  StepUnderTest tiny({"trainer.precision=F32"}, /*clip_norm=*/1.0);
  const std::vector<Batch> batches = Partition({2, 2, 2});
  ASSERT_OK_AND_ASSIGN(const StepResult first, tiny.step->Run(batches, 1e-2));
  EXPECT_GT(first.language_model_loss, 4.0);  // log(300) = 5.7, less what a tied embedding favours
  StepResult last;
  for (int i = 0; i < 30; ++i) {
    ASSERT_OK_AND_ASSIGN(last, tiny.step->Run(batches, 1e-2));
  }
  EXPECT_LT(last.language_model_loss, 0.2 * first.language_model_loss);
}

TEST(TrainingStepTest, TargetsWithoutWeightChangeNothing) {
  StepUnderTest one({"trainer.precision=F32"}), other({"trainer.precision=F32"});
  std::vector<Batch> batches = Partition({3, 3}), changed = Partition({3, 3});
  for (Batch& batch : changed) {
    for (int64_t t = 0; t < batch.targets.num_elements(); ++t) {
      if (batch.token_weight.data<float>()[t] == 0) batch.targets.data<int32_t>()[t] = 3;
    }
  }
  ASSERT_OK(one.step->Run(batches, 1e-2));
  ASSERT_OK(other.step->Run(changed, 1e-2));
  const auto a = one.Copies(&ShardedParameter::master), b = other.Copies(&ShardedParameter::master);
  for (size_t i = 0; i < a.size(); ++i) ExpectSameBits(one.NameOf(i), a[i], b[i]);
}

TEST(TrainingStepTest, CountsTheWholeStep) {
  StepUnderTest tiny({"trainer.precision=F32"});
  const std::vector<Batch> batches = Partition({1, 2});
  ASSERT_OK_AND_ASSIGN(const StepResult result, tiny.step->Run(batches, 0.0));
  EXPECT_EQ(result.counts.real_tokens, 12 + 11 + 10);  // rows end in padding
  EXPECT_EQ(result.counts.weight_sum, batches[0].weight_sum + batches[1].weight_sum);
  // Every real token chose two of four experts, in each of two layers.
  ASSERT_EQ(result.watch.experts.size(), 2u);
  for (const ExpertActivations& experts : result.watch.experts) {
    int64_t tokens = 0;
    for (const int64_t count : experts.tokens) tokens += count;
    EXPECT_EQ(tokens, 2 * 33) << experts.name;
  }
}

TEST(TrainingStepTest, ClipsTheUpdateAndReportsTheNormBefore) {
  // Adam's first update does not see the gradient's scale, so compare the second moments.
  StepUnderTest free({"trainer.precision=F32"}), clipped({"trainer.precision=F32"}, 1e-3);
  ASSERT_OK_AND_ASSIGN(const StepResult a, free.step->Run(Partition({2}), 1e-3));
  ASSERT_OK_AND_ASSIGN(const StepResult b, clipped.step->Run(Partition({2}), 1e-3));
  EXPECT_EQ(a.gradient_norm, b.gradient_norm);
  const auto moment = [](const StepUnderTest& tiny) {
    NamedState state;
    tiny.optimizer->AppendState(state);
    double sum = 0;
    for (const NamedTensor& tensor : state.tensors) {
      if (tensor.name.rfind("adamw.first_moment/", 0) != 0) continue;
      for (const float value : tensor.shard.values<float>()) sum += double{value} * value;
    }
    return std::sqrt(sum);
  };
  EXPECT_NEAR(moment(clipped) / moment(free), 1e-3 / a.gradient_norm, 1e-5);
}

TEST(TrainingStepTest, NoUpdateWhereAGradientIsNotFinite) {
  StepUnderTest tiny({"trainer.precision=F32"});
  tiny.runtime.sharder->sharded()[0].master.data<float>()[5] =
      std::numeric_limits<float>::infinity();
  ASSERT_OK(tiny.runtime.sharder->RefreshComputeValues());
  const auto before = tiny.Copies(&ShardedParameter::master);
  ASSERT_OK_AND_ASSIGN(const StepResult result, tiny.step->Run(Partition({2}), 1e-2));
  EXPECT_THAT(result.not_finite, HasSubstr("gradient of model."));
  EXPECT_EQ(tiny.optimizer->step(), 0);
  const auto after = tiny.Copies(&ShardedParameter::master);
  for (size_t i = 0; i < before.size(); ++i) ExpectSameBits(tiny.NameOf(i), after[i], before[i]);
}

}  // namespace
}  // namespace plait
