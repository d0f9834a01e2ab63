#include "model/language_model.h"

#include <map>

#include "tests/support/finite_differences.h"
#include "tests/support/tensor_matchers.h"
#include "tests/support/tiny_model.h"

namespace plait {
namespace {

double TotalLoss(ModelUnderTest& m, const Microbatch& microbatch, const StepCounts& counts) {
  auto losses = m.model->Losses(m.execution, *m.sharder, microbatch, counts);
  EXPECT_OK(losses);
  return losses.ok() ? losses->total() : 0.0;
}

// Every parameter's gradient of the whole model against central differences in double.
void ExpectGradientsMatch(const ModelShape& shape, Recomputation recomputation) {
  ModelUnderTest m(shape, DType::kF64, recomputation);
  const Microbatch microbatch =
      RandomMicrobatch({5, 1, 7}, shape.vocabulary, DType::kF64, 3, /*padding=*/2);
  const StepCounts counts = CountsOf({microbatch});
  ASSERT_OK_AND_ASSIGN(const MicrobatchLosses losses,
                       m.model->LossAndGradient(m.execution, *m.sharder, microbatch, counts));
  EXPECT_NEAR(losses.total(), TotalLoss(m, microbatch, counts), 1e-13);
  for (ShardedParameter& parameter : m.sharder->sharded()) {
    // Routing is piecewise constant: with these seeds no difference of 1e-6 crosses a boundary.
    ExpectGradientMatches(parameter.name, parameter.master, parameter.gradient.Clone(),
                          [&] {
                            EXPECT_OK(m.sharder->RefreshComputeValues());
                            return TotalLoss(m, microbatch, counts);
                          },
                          {.step = 1e-6, .relative = 1e-7});
    EXPECT_OK(m.sharder->RefreshComputeValues());
  }
}

TEST(LanguageModelTest, JambaGradientMatchesFiniteDifferences) {
  ExpectGradientsMatch(TinyJamba(), Recomputation::kNone);
}

TEST(LanguageModelTest, OddJambaGradientWithEveryLossMatchesFiniteDifferences) {
  ExpectGradientsMatch(OddJamba(), Recomputation::kNone);
}

TEST(LanguageModelTest, OddJambaGradientMatchesFiniteDifferencesWithRecomputation) {
  ExpectGradientsMatch(OddJamba(), Recomputation::kBlocks);
}

TEST(LanguageModelTest, LlamaGradientMatchesFiniteDifferences) {
  ExpectGradientsMatch(TinyLlama(), Recomputation::kNone);
}

TEST(LanguageModelTest, RecomputationChangesNoBit) {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    ModelUnderTest kept(OddJamba(), dtype), recomputed(OddJamba(), dtype, Recomputation::kBlocks);
    const Microbatch microbatch = RandomMicrobatch({33, 8}, 19, dtype, 4);
    const StepCounts counts = CountsOf({microbatch});
    ASSERT_OK_AND_ASSIGN(const auto a, kept.model->LossAndGradient(kept.execution, *kept.sharder,
                                                                   microbatch, counts));
    ASSERT_OK_AND_ASSIGN(
        const auto b, recomputed.model->LossAndGradient(recomputed.execution, *recomputed.sharder,
                                                        microbatch, counts));
    EXPECT_EQ(a.total(), b.total());
    for (size_t i = 0; i < kept.sharder->sharded().size(); ++i) {
      ExpectSameBits(kept.sharder->sharded()[i].name, kept.sharder->sharded()[i].gradient,
                     recomputed.sharder->sharded()[i].gradient);
    }
  }
}

// The same rows as one microbatch, as two and as four, with an SFT-like mask: the same losses and
// gradients. The balance loss is a statistic of a microbatch by definition and is off.
TEST(LanguageModelTest, AnyPartitionOfTheRowsGivesTheSameGradient) {
  ModelShape shape = OddJamba();
  shape.balance_loss_coefficient = 0;
  const std::vector<std::vector<int32_t>> rows = {{9, 4}, {13}, {1, 12}, {6, 7}};
  std::map<size_t, std::vector<Tensor>> gradients;
  std::map<size_t, double> totals;
  for (const size_t per_microbatch : {size_t{1}, size_t{2}, size_t{4}}) {
    ModelUnderTest m(shape, DType::kF64);
    std::vector<Microbatch> microbatches;
    for (size_t begin = 0; begin < rows.size(); begin += per_microbatch) {
      std::vector<int32_t> ids, targets, offsets = {0};
      std::vector<float> weights;
      for (size_t row = begin; row < begin + per_microbatch; ++row) {
        const Microbatch one = RandomMicrobatch(rows[row], shape.vocabulary, DType::kF64, 10 + row);
        for (int64_t t = 0; t < one.layout.tokens; ++t) {
          ids.push_back(one.tokens.data<int32_t>()[t]);
          targets.push_back(one.targets.data<int32_t>()[t]);
          weights.push_back(t % 13 < 5 ? 0.0f : one.token_weight.data<float>()[t]);
        }
        for (int32_t length : rows[row]) offsets.push_back(offsets.back() + length);
      }
      const auto tokens = static_cast<int64_t>(ids.size());
      ASSERT_OK_AND_ASSIGN(Microbatch microbatch,
                           Microbatch::Create(Tensor::FromValues<int32_t>({tokens}, ids),
                                              Tensor::FromValues<int32_t>({tokens}, targets),
                                              Tensor::FromValues<float>({tokens}, weights),
                                              Tensor::FromValues<int32_t>(
                                                  {static_cast<int64_t>(offsets.size())}, offsets),
                                              DType::kF64));
      microbatches.push_back(std::move(microbatch));
    }
    const StepCounts counts = CountsOf(microbatches);
    for (const Microbatch& microbatch : microbatches) {
      ASSERT_OK_AND_ASSIGN(const auto losses,
                           m.model->LossAndGradient(m.execution, *m.sharder, microbatch, counts));
      totals[per_microbatch] += losses.total();
    }
    for (const ShardedParameter& parameter : m.sharder->sharded()) {
      gradients[per_microbatch].push_back(parameter.gradient.Clone());
    }
  }
  for (const size_t other : {size_t{2}, size_t{4}}) {
    EXPECT_NEAR(totals[other], totals[1], 1e-11 * std::abs(totals[1]));
    for (size_t i = 0; i < gradients[1].size(); ++i) {
      ExpectClose("gradient", gradients[other][i], gradients[1][i], 1e-11);
    }
  }
}

TEST(LanguageModelTest, ActivationLossIsTheMeanSquareOfBlockOutputs) {
  ModelShape shape = TinyJamba();
  shape.activation_loss_coefficient = 0.25;
  shape.activation_loss_on_block_output = true;
  ModelUnderTest m(shape, DType::kF64);
  const Microbatch microbatch =
      RandomMicrobatch({5, 7}, shape.vocabulary, DType::kF64, 3, /*padding=*/3);
  ASSERT_OK_AND_ASSIGN(
      const MicrobatchLosses losses,
      m.model->Losses(m.execution, *m.sharder, microbatch, CountsOf({microbatch})));
  double expected = 0;
  ASSERT_EQ(losses.watch.blocks.size(), 6u);
  for (const BlockActivations& block : losses.watch.blocks) {
    EXPECT_EQ(block.elements, 12.0 * 8.0);
    EXPECT_GT(block.absolute_max, 0);
    expected += 0.25 / 6 * block.square_sum / block.elements;
  }
  EXPECT_NEAR(losses.activation, expected, 1e-14);
}

TEST(LanguageModelTest, WatchCountsEveryRealTokenOncePerChoice) {
  ModelUnderTest m(TinyJamba(), DType::kF64);
  const Microbatch microbatch = RandomMicrobatch({5, 7}, 19, DType::kF64, 3, /*padding=*/3);
  ASSERT_OK_AND_ASSIGN(
      const MicrobatchLosses losses,
      m.model->Losses(m.execution, *m.sharder, microbatch, CountsOf({microbatch})));
  ASSERT_EQ(losses.watch.experts.size(), 2u);
  for (const ExpertActivations& layer : losses.watch.experts) {
    int64_t tokens = 0;
    for (int64_t count : layer.tokens) tokens += count;
    EXPECT_EQ(tokens, 12 * 2);
  }
}

TEST(LanguageModelTest, RejectsATokenPastTheVocabulary) {
  ModelUnderTest m(TinyLlama(), DType::kF32);
  Microbatch microbatch = RandomMicrobatch({4}, 17, DType::kF32, 1);
  microbatch.tokens.data<int32_t>()[2] = 17;
  EXPECT_THAT(m.model->LogProbabilities(m.execution, *m.sharder, microbatch),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       ::testing::HasSubstr("model.embed_tokens.weight")));
}

TEST(LanguageModelTest, RejectsAWeightWithoutATarget) {
  EXPECT_THAT(Microbatch::Create(Tensor::FromValues<int32_t>({2}, {1, 2}),
                                 Tensor::FromValues<int32_t>({2}, {1, -1}),
                                 Tensor::FromValues<float>({2}, {1, 1}),
                                 Tensor::FromValues<int32_t>({2}, {0, 2}), DType::kF32),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       ::testing::HasSubstr("token 1 has a weight but no target")));
}

}  // namespace
}  // namespace plait
