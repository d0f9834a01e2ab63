// Every kind of block on its own, against finite differences in double: input, pending delta and
// each parameter, with the losses that live inside blocks switched on.
#include <functional>
#include <memory>

#include "model/attention_block.h"
#include "model/block_stack.h"
#include "model/feed_forward_block.h"
#include "model/mamba_block.h"
#include "model/mixture_of_experts_block.h"
#include "tests/support/finite_differences.h"
#include "tests/support/layer_under_test.h"
#include "tests/support/single_rank_mesh.h"
#include "tests/support/tiny_model.h"

namespace plait {
namespace {

SequenceLayout Layout() {
  const Microbatch microbatch = RandomMicrobatch({4, 1, 5}, 19, DType::kF64, 1, /*padding=*/2);
  return microbatch.layout;
}

// A scalar that every output and every loss inside the block enters: the stream after the block
// times fixed weights, and factor x the squares that the activation losses sum.
void ExpectBlockGradientsMatch(Block& block, const BlockLossFactors& factors) {
  Execution execution({.num_threads = 2});
  const SequenceLayout layout = Layout();
  GiveRandomValues(block.parameters(), 10);
  Tensor residual = UniformTensor({12, 8}, 2), delta = UniformTensor({12, 8}, 3);
  const Tensor weights = UniformTensor({12, 8}, 4);
  const auto squares = [&](const Tensor& x) {
    double sum = 0;
    for (int64_t i = 0; i < x.num_elements(); ++i) {
      sum += layout.real.data<double>()[i / 8] * x.data<double>()[i] * x.data<double>()[i];
    }
    return sum;
  };
  const auto loss = [&] {
    ResidualStream stream{residual, delta};
    std::unique_ptr<Block::Saved> saved;
    EXPECT_OK(block.Forward(execution, {.layout = &layout}, stream, &saved));
    double sum = WeightedSum(stream.residual, weights) + WeightedSum(stream.delta, weights);
    sum +=
        factors.block_output * squares(stream.delta) + factors.residual * squares(stream.residual);
    if (const Routing* routing = block.routing(*saved)) {
      const int64_t experts = routing->probabilities.shape()[1],
                    choices = routing->choices.shape()[1];
      for (int64_t i = 0; i < 12 * choices; ++i) {
        const int32_t row = routing->token_row.data<int32_t>()[i];
        const double weight = routing->weights.data<double>()[i];
        sum += factors.expert_output * layout.real.data<double>()[i / choices] *
               routing->output_statistics.square_sum.data<double>()[row] / (weight * weight);
      }
      for (int64_t t = 0; t < 12; ++t) {
        const double real = layout.real.data<double>()[t];
        const double log_sum_exp = routing->log_sum_exp.data<double>()[t];
        sum += real * factors.z * log_sum_exp * log_sum_exp;
        for (int64_t e = 0; e < experts; ++e) {
          sum += real * factors.balance_gradient.data<double>()[e] *
                 routing->probabilities.data<double>()[t * experts + e];
        }
      }
    }
    return sum;
  };

  ResidualStream stream{residual, delta};
  std::unique_ptr<Block::Saved> saved;
  ASSERT_OK(block.Forward(execution, {.layout = &layout}, stream, &saved));
  ASSERT_OK_AND_ASSIGN(
      const Tensor dstream,
      block.Backward(execution, {.layout = &layout, .factors = factors}, weights, *saved));
  ExpectGradientMatches("residual", residual, dstream, loss);
  ExpectGradientMatches("delta", delta, dstream, loss);
  for (LayerParameter* parameter : block.parameters()) {
    ExpectGradientMatches(parameter->parameter.name, parameter->parameter.value,
                          parameter->parameter.gradient.Clone(), loss);
  }
}

BlockLossFactors Factors(int64_t experts) {
  return {.block_output = 0.3,
          .expert_output = 0.2,
          .residual = 0.4,
          .z = 0.1,
          .balance_gradient = UniformTensor({experts}, 9)};
}

TEST(BlocksTest, AttentionBackwardMatchesFiniteDifferences) {
  ModelShape shape = OddJamba();
  AttentionBlock block(shape, "model.layers.0", DType::kF64, SingleRankMesh());
  ExpectBlockGradientsMatch(block, Factors(1));
}

TEST(BlocksTest, AttentionWithRotaryEmbeddingBackwardMatchesFiniteDifferences) {
  ModelShape shape = OddJamba();
  shape.rotary_theta = 100;
  AttentionBlock block(shape, "model.layers.0", DType::kF64, SingleRankMesh());
  ExpectBlockGradientsMatch(block, Factors(1));
}

TEST(BlocksTest, MambaBackwardMatchesFiniteDifferences) {
  for (ModelShape shape : {TinyJamba(), OddJamba()}) {
    shape.activation_loss_coefficient = 1;
    shape.activation_loss_on_block_output = true;
    MambaBlock block(shape, "model.layers.0", DType::kF64, SingleRankMesh());
    ExpectBlockGradientsMatch(block, Factors(1));
  }
}

TEST(BlocksTest, FeedForwardBackwardMatchesFiniteDifferences) {
  FeedForwardBlock block(OddJamba(), "model.layers.0", DType::kF64, SingleRankMesh());
  ExpectBlockGradientsMatch(block, Factors(1));
}

TEST(BlocksTest, MixtureOfExpertsBackwardMatchesFiniteDifferences) {
  MixtureOfExpertsBlock block(OddJamba(), "model.layers.0", DType::kF64, SingleRankMesh());
  ExpectBlockGradientsMatch(block, Factors(6));
}

TEST(BlocksTest, NamesFollowTheFamily) {
  FeedForwardBlock jamba(TinyJamba(), "model.layers.3", DType::kF64, SingleRankMesh());
  FeedForwardBlock llama(TinyLlama(), "model.layers.3", DType::kF64, SingleRankMesh());
  EXPECT_EQ(jamba.parameters()[0]->parameter.name, "model.layers.3.pre_ff_layernorm.weight");
  EXPECT_EQ(jamba.parameters()[1]->parameter.name, "model.layers.3.feed_forward.gate_proj.weight");
  EXPECT_EQ(llama.parameters()[0]->parameter.name,
            "model.layers.3.post_attention_layernorm.weight");
  EXPECT_EQ(llama.parameters()[1]->parameter.name, "model.layers.3.mlp.gate_proj.weight");
}

}  // namespace
}  // namespace plait
