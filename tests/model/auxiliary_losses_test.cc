#include "model/auxiliary_losses.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
    routing_.output_statistics = output_;
  }

  AuxiliaryLosses Compute() {
    const std::vector<BlockObservation> blocks = {{"block", &output_, nullptr, &routing_}};
    return ComputeAuxiliaryLosses(shape_, layout_, blocks, ExpertChoices(shape_, layout_, blocks),
                                  {.weight_sum = 2, .real_tokens = 2});
  }

  ModelShape shape_;
  SequenceLayout layout_;
  RowStatisticsPair output_;
  Routing routing_;
};

TEST_F(AuxiliaryLossesTest, CoefficientsOfZeroCostNothingAndTheWatchStaysOn) {
  const AuxiliaryLosses losses = Compute();
  EXPECT_EQ(losses.activation + losses.balance + losses.z, 0);
  ASSERT_EQ(losses.watch.blocks.size(), 1u);
  EXPECT_EQ(losses.watch.blocks[0].square_sum, 32);  // padding left out
  EXPECT_EQ(losses.watch.blocks[0].absolute_max, 3);
  EXPECT_THAT(losses.watch.experts[0].tokens, ElementsAre(1, 1));
  EXPECT_THAT(losses.watch.experts[0].square_sum, ElementsAre(8, 24));
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

TEST_F(AuxiliaryLossesTest, WatchesMergeBySumAndMaximum) {
  ActivationWatch watch;
  watch.Merge(Compute().watch);
  watch.Merge(Compute().watch);
  EXPECT_EQ(watch.blocks[0].square_sum, 64);
  EXPECT_EQ(watch.blocks[0].absolute_max, 3);
  EXPECT_THAT(watch.experts[0].tokens, ElementsAre(2, 2));
}

}  // namespace
}  // namespace plait
