#include "model/auxiliary_losses.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::ElementsAre;

// Two real tokens and one of padding, 2 experts, one choice each, one expert block of width 4.
class AuxiliaryLossesTest : public ::testing::Test {
 protected:
  AuxiliaryLossesTest() {
    shape_.model_dim = 4;
    shape_.layers = {{MixerKind::kMamba1, FeedForwardKind::kExperts}};
    shape_.experts = 2;
    shape_.experts_per_token = 1;
    layout_ = *SequenceLayout::Create(Tensor::FromValues<int32_t>({3}, {1, 2, -1}),
                                      Tensor::FromValues<int32_t>({2}, {0, 3}), DType::kF64);
    output_ = {Tensor::FromValues<double>({3}, {8, 24, 1e9}),
               Tensor::FromValues<double>({3}, {2, 3, 1e9})};
    routing_.probabilities = Tensor::FromValues<double>({3, 2}, {0.75, 0.25, 0.25, 0.75, 0, 1});
    routing_.choices = Tensor::FromValues<int32_t>({3, 1}, {0, 1, 1});
    routing_.log_sum_exp = Tensor::FromValues<double>({3}, {1, 2, 1e9});
    routing_.token_row = Tensor::FromValues<int32_t>({3, 1}, {0, 1, 2});
    // Outputs times their weights: a half and one.
    routing_.weights = Tensor::FromValues<double>({3, 1}, {0.5, 1, 1});
    routing_.output_statistics = {Tensor::FromValues<double>({3}, {2, 24, 1e9}),
                                  Tensor::FromValues<double>({3}, {1, 3, 1e9})};
  }

  // Of the layer's mixer the output alone is seen, of its experts the routing too.
  AuxiliaryLosses Compute() {
    watch_ = {.blocks = {{.name = "mixer"}, {.name = "experts"}},
              .experts = {{"experts", {0, 0}, {0, 0}, {0, 0}}}};
    AuxiliarySums sums = AuxiliarySums::Zero(shape_);
    Observe(
        {{.block = 0, .output = &output_}, {.block = 1, .output = &output_, .routing = &routing_}},
        sums, watch_);
    return *ComputeAuxiliaryLosses(execution_, shape_, layout_, sums, sums.choices,
                                   {.weight_sum = 2, .real_tokens = 2});
  }
  void Observe(const std::vector<BlockObservation>& blocks, AuxiliarySums& sums,
               ActivationWatch& watch) {
    auto observation = Observation::Start(execution_, shape_, layout_, blocks);
    ASSERT_OK(observation.status());
    EXPECT_OK(observation->Finish(shape_, layout_, sums, watch));
  }

  Execution execution_;
  ModelShape shape_;
  SequenceLayout layout_;
  RowStatisticsPair output_;
  Routing routing_;
  ActivationWatch watch_;
};

TEST_F(AuxiliaryLossesTest, CoefficientsOfZeroCostNothingAndTheWatchStaysOn) {
  const AuxiliaryLosses losses = Compute();
  EXPECT_EQ(losses.activation + losses.balance + losses.z, 0);
  for (const BlockActivations& block : watch_.blocks) {
    EXPECT_EQ(block.square_sum, 32);  // padding left out
    EXPECT_EQ(block.elements, 2 * 4);
    EXPECT_EQ(block.absolute_max, 3);
  }
  EXPECT_THAT(watch_.experts[0].tokens, ElementsAre(1, 1));
  EXPECT_THAT(watch_.experts[0].square_sum, ElementsAre(8, 24));
}

TEST_F(AuxiliaryLossesTest, ActivationLossIsTheMeanSquareOverRealTokens) {
  shape_.activation_loss_on_block_output = true;
  shape_.activation_loss_coefficient = 0.5;
  EXPECT_DOUBLE_EQ(Compute().activation, 0.5 * (8.0 + 24.0) / (2 * 4));
}

TEST_F(AuxiliaryLossesTest, RouterLossesAreTheirFormulas) {
  shape_.balance_loss_coefficient = 0.1;
  shape_.z_loss_coefficient = 0.01;
  const AuxiliaryLosses losses = Compute();
  // E sum_e f_e P_e with f = P = 1/2.
  EXPECT_DOUBLE_EQ(losses.balance, 0.1 * 2 * (0.5 * 0.5 + 0.5 * 0.5));
  EXPECT_DOUBLE_EQ(losses.z, 0.01 * (1.0 + 4.0) / 2);
}

TEST_F(AuxiliaryLossesTest, FactorsBelongToTheBlocksWhoseBackwardAddsThem) {
  shape_.layers.push_back({MixerKind::kMamba1, FeedForwardKind::kDense});
  shape_.activation_loss_coefficient = 1;
  shape_.activation_loss_on_block_output = shape_.activation_loss_on_residual = true;
  shape_.balance_loss_coefficient = 0.1;
  shape_.z_loss_coefficient = 0.01;
  ASSERT_OK_AND_ASSIGN(
      const AuxiliaryLosses losses,
      ComputeAuxiliaryLosses(execution_, shape_, layout_, AuxiliarySums::Zero(shape_), {1, 1},
                             {.weight_sum = 2, .real_tokens = 2}));
  ASSERT_EQ(losses.factors.size(), 4u);
  const double per_block = 1.0 / (2 * 4 * 4);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_DOUBLE_EQ(losses.factors[i].block_output, per_block);
    EXPECT_DOUBLE_EQ(losses.factors[i].residual, i > 0 ? per_block : 0);
    EXPECT_DOUBLE_EQ(losses.factors[i].z, i == 1 ? 0.01 / 2 : 0);
    EXPECT_EQ(static_cast<bool>(losses.factors[i].balance_gradient), i == 1);
  }
  EXPECT_DOUBLE_EQ(losses.final_residual_factor, per_block);
  // E f_e / (layers x step's real tokens).
  EXPECT_DOUBLE_EQ(losses.factors[1].balance_gradient.data<double>()[0], 0.1 * 2 * 0.5 / 2);
}

TEST_F(AuxiliaryLossesTest, PartsThatHandTheirSumsOnAddUpToTheWhole) {
  Compute();
  AuxiliarySums whole = AuxiliarySums::Zero(shape_), parts = AuxiliarySums::Zero(shape_);
  const std::vector<BlockObservation> blocks = {
      {.block = 0, .output = &output_, .residual = &output_},
      {.block = 1, .routing = &routing_},
      {.block = 1, .output = &output_, .residual = &output_}};
  ActivationWatch whole_watch = watch_, first_watch = watch_, second_watch = watch_;
  Observe(blocks, whole, whole_watch);
  Observe({blocks[0], blocks[1]}, parts, first_watch);
  Observe({blocks[2]}, parts, second_watch);
  EXPECT_EQ(parts.output_square_sum, whole.output_square_sum);
  EXPECT_EQ(parts.residual_square_sum, whole.residual_square_sum);
  EXPECT_EQ(parts.expert_square_sum, whole.expert_square_sum);
  EXPECT_EQ(parts.z, whole.z);
  EXPECT_EQ(parts.choices, whole.choices);
  EXPECT_EQ(parts.probability, whole.probability);
  EXPECT_EQ(second_watch.experts[0].tokens, watch_.experts[0].tokens);
  EXPECT_EQ(first_watch.blocks[1].elements, watch_.blocks[1].elements);
  EXPECT_EQ(second_watch.blocks[1].elements, whole_watch.blocks[1].elements);
}

TEST_F(AuxiliaryLossesTest, WatchesMergeBySumAndMaximum) {
  ActivationWatch watch;
  for (int i = 0; i < 2; ++i) {
    Compute();
    watch.Merge(watch_);
  }
  EXPECT_EQ(watch.blocks[0].square_sum, 64);
  EXPECT_EQ(watch.blocks[0].absolute_max, 3);
  EXPECT_THAT(watch.experts[0].tokens, ElementsAre(2, 2));
}

}  // namespace
}  // namespace plait
