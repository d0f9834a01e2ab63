#include "trainer/parity.h"

#include <gtest/gtest.h>

#include "optim/adamw.h"
#include "tests/support/parity_fixture.h"
#include "trainer/pretraining_objective.h"
#include "trainer/training_step.h"

namespace plait {
namespace {

// Largest error of the differences whose name begins so.
double LargestError(const ParityReport& report, const std::string& prefix) {
  double largest = 0;
  for (const ParityDifference& difference : report.differences) {
    if (difference.name.starts_with(prefix)) largest = std::max(largest, difference.error);
  }
  return largest;
}

class ParityTest : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Fixtures, ParityTest,
                         ::testing::Values("tiny_jamba", "odd_jamba", "tiny_llama"),
                         [](const auto& fixture) { return std::string(fixture.param); });

// f32 on both sides: the reference's own rounding is about 1e-5 in the logits, and a mistake moves
// them by 1e-3 and more.
TEST_P(ParityTest, LogitsLossesGradientsAndGreedyTokensAreTransformers) {
  const ParityFixture fixture(GetParam());
  ASSERT_OK_AND_ASSIGN(const ParityReport report, CompareFixture(fixture));
  for (const ParityDifference& difference : report.differences)
    EXPECT_TRUE(difference.passed()) << difference.name << " " << difference.error;
  EXPECT_LE(LargestError(report, "logits"), 1e-4);
  EXPECT_LE(LargestError(report, "gradients/"), 1e-4);
  EXPECT_EQ(LargestError(report, "greedy"), 0);
  EXPECT_TRUE(report.without_gradient.empty());
  EXPECT_TRUE(report.passed());
  for (const char* part : {"logits", "loss", "auxiliary_loss", "gradients/", "greedy"})
    RecordProperty(part, std::to_string(LargestError(report, part)));
}

// The fixture's rows as the one microbatch of every step.
Batch BatchOf(const Tensor& ids) {
  const int64_t rows = ids.shape()[0], tokens = ids.shape()[1], count = rows * tokens;
  Batch batch{.tokens = Tensor::OnHost(DType::kI32, {count}),
              .targets = Tensor::OnHost(DType::kI32, {count}),
              .token_weight = Tensor::OnHost(DType::kF32, {count}),
              .document_offsets = Tensor::OnHost(DType::kI32, {rows + 1}),
              .weight_sum = static_cast<double>(rows * (tokens - 1)),
              .real_tokens = count};
  for (int64_t t = 0; t < count; ++t) {
    const bool last = t % tokens == tokens - 1;
    batch.tokens.data<int32_t>()[t] = static_cast<int32_t>(ids.data<int64_t>()[t]);
    batch.targets.data<int32_t>()[t] = last ? -1 : static_cast<int32_t>(ids.data<int64_t>()[t + 1]);
    batch.token_weight.data<float>()[t] = last ? 0.0f : 1.0f;
  }
  for (int64_t row = 0; row <= rows; ++row)
    batch.document_offsets.data<int32_t>()[row] = static_cast<int32_t>(row * tokens);
  return batch;
}

// Every step's error goes into the next. The fixtures are models whose losses move by less than
// 5e-5 in these steps where weights change by 1e-7.
TEST_P(ParityTest, TwentyStepsOfAdamWAreTorchs) {
  const ParityFixture fixture(GetParam());
  ASSERT_OK_AND_ASSIGN(const ForeignHdf5File file,
                       ForeignHdf5File::Open(fixture.folder + "/training.h5"));
  const auto attribute = [&file](const char* name) {
    auto value = file.NumberAttribute(name);
    PLAIT_CHECK(value.ok() && value->has_value());
    return **value;
  };
  recipe::v1::Recipe recipe = fixture.recipe;  // its balance loss is scaled as the reference's
  recipe.mutable_trainer()->set_precision(recipe::v1::Trainer::F32);
  ParityRuntime loaded(fixture, recipe);
  recipe::v1::AdamW config;
  config.set_beta1(attribute("beta1"));
  config.set_beta2(attribute("beta2"));
  config.set_epsilon(attribute("epsilon"));
  config.set_weight_decay(attribute("weight_decay"));
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<AdamW> adamw,
                       AdamW::Create(loaded.execution, config, loaded.runtime.sharder->sharded()));
  const PretrainingObjective objective;
  TrainingStep step(loaded.execution, loaded.runtime, *adamw, objective,
                    attribute("gradient_clip_norm"));
  ASSERT_OK_AND_ASSIGN(const Tensor ids, file.Read("input_ids", DType::kI64));
  ASSERT_OK_AND_ASSIGN(const Tensor losses, file.Read("losses", DType::kF64));
  ASSERT_EQ(losses.num_elements(), 20);
  const Batch batch = BatchOf(ids);
  double largest = 0;
  for (const double expected : losses.values<double>()) {
    ASSERT_OK_AND_ASSIGN(const StepResult result,
                         step.Run(std::span(&batch, 1), attribute("learning_rate")));
    const double difference = std::abs(result.loss() - expected);
    EXPECT_LE(difference, 1e-3);
    largest = std::max(largest, difference);
  }
  RecordProperty("largest_loss_error", std::to_string(largest));

  ParityFixture trained = fixture;
  for (auto& [name, tensor] : trained.tensors) {
    ASSERT_OK_AND_ASSIGN(tensor, file.Read("parameters/" + name, DType::kF32));
  }
  double largest_difference = 0;
  for (const ShardedParameter& parameter : loaded.runtime.sharder->sharded()) {
    const Tensor expected = trained.Fused(parameter.name, parameter.spec.logical_shape);
    for (int64_t i = 0; i < expected.num_elements(); ++i) {
      const double difference = std::abs(static_cast<double>(parameter.master.data<float>()[i]) -
                                         expected.data<float>()[i]);
      EXPECT_LE(difference, 1e-3) << parameter.name << " " << i;
      largest_difference = std::max(largest_difference, difference);
    }
  }
  RecordProperty("largest_parameter_error", std::to_string(largest_difference));
}

}  // namespace
}  // namespace plait
