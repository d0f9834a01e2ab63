// The leaf layers on their own, against finite differences in double.
#include "model/linear.h"
#include "model/pre_norm.h"
#include "model/rms_norm.h"
#include "model/token_embedding.h"
#include "model/token_log_probability_head.h"
#include "tests/support/finite_differences.h"
#include "tests/support/layer_under_test.h"
#include "tests/support/single_rank_mesh.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"
#include "tests/support/tiny_model.h"

namespace plait {
namespace {

TEST(LinearTest, BackwardMatchesFiniteDifferences) {
  Execution execution;
  Linear linear("layer", 3, 4, Bias::kYes, DType::kF64, {});
  std::vector<LayerParameter*> parameters;
  linear.AppendParameters(parameters);
  ASSERT_EQ(parameters.size(), 2u);
  GiveRandomValues(parameters, 5);
  Tensor x = UniformTensor({6, 4}, 1), dx = Tensor::OnHost(DType::kF64, {6, 4});
  const Tensor dy = UniformTensor({6, 3}, 2);
  ASSERT_OK(linear.InputGradient(execution, dy.matrix(), dx.matrix()));
  ASSERT_OK(linear.WeightGradient(execution, dy.matrix(), x.matrix()));
  const auto loss = [&] {
    Tensor y = Tensor::OnHost(DType::kF64, {6, 3});
    EXPECT_OK(linear.Forward(execution, x.matrix(), y.matrix()));
    return WeightedSum(y, dy);
  };
  ExpectGradientMatches("x", x, dx, loss);
  for (LayerParameter* parameter : parameters) {
    ExpectGradientMatches(parameter->parameter.name, parameter->parameter.value,
                          parameter->parameter.gradient.Clone(), loss);
  }
}

TEST(RmsNormLayerTest, BackwardMatchesFiniteDifferences) {
  Execution execution;
  RmsNorm norm("norm", 5, 1e-6, DType::kF64);
  std::vector<LayerParameter*> parameters;
  norm.AppendParameters(parameters);
  GiveRandomValues(parameters, 5);
  Tensor residual = UniformTensor({3, 5}, 1), delta = UniformTensor({3, 5}, 2);
  const Tensor dy = UniformTensor({3, 5}, 3);
  const auto loss = [&] {
    ResidualStream stream{residual, delta};
    auto y = norm.Forward(execution, stream, nullptr, nullptr);
    EXPECT_OK(y);
    return WeightedSum(*y, dy);
  };
  ResidualStream stream{residual, delta};
  RowStatisticsPair statistics;
  Tensor inverse_rms;
  ASSERT_OK(norm.Forward(execution, stream, &statistics, &inverse_rms));
  EXPECT_FALSE(stream.delta);
  Tensor dr = Tensor::OnHost(DType::kF64, {3, 5});
  ASSERT_OK(norm.Backward(execution, dy.matrix(), stream.residual.matrix(), inverse_rms.vector(),
                          {}, dr.matrix()));
  ExpectGradientMatches("residual", residual, dr, loss);
  ExpectGradientMatches("delta", delta, dr, loss);
  ExpectGradientMatches("weight", parameters[0]->parameter.value,
                        parameters[0]->parameter.gradient.Clone(), loss);
}

TEST(PreNormTest, BackwardMatchesFiniteDifferences) {
  Execution execution;
  PreNorm norm("norm", 5, 1e-6, DType::kF64);
  std::vector<LayerParameter*> parameters;
  norm.AppendParameters(parameters);
  GiveRandomValues(parameters, 5);
  Tensor residual = UniformTensor({3, 5}, 1);
  const Tensor past = UniformTensor({3, 5}, 2), dy = UniformTensor({3, 5}, 3);
  const SequenceLayout layout = SequenceLayout::Continuation(3, 0, DType::kF64);
  // The stream goes past the block and through its norm.
  const auto loss = [&] {
    ResidualStream stream{residual, {}};
    auto y = norm.Forward(execution, {.layout = &layout}, stream, nullptr);
    EXPECT_OK(y);
    return WeightedSum(*y, dy) + WeightedSum(residual, past);
  };
  ResidualStream stream{residual, {}};
  PreNorm::Saved saved;
  ASSERT_OK(norm.Forward(execution, {.layout = &layout}, stream, &saved));
  ASSERT_OK_AND_ASSIGN(const Tensor dr, norm.Backward(execution, {.layout = &layout}, past, dy,
                                                      stream.residual, saved));
  ExpectGradientMatches("residual", residual, dr, loss);
}

TEST(TokenEmbeddingTest, BackwardMatchesFiniteDifferences) {
  Execution execution;
  ModelShape shape = TinyJamba();
  TokenEmbedding embedding(shape, DType::kF64, SingleRankMesh());
  GiveRandomValues({&embedding.weight()}, 5);
  const Tensor tokens = Tensor::FromValues<int32_t>({5}, {3, -1, 7, 3, 18});
  const Tensor dy = UniformTensor({5, 8}, 2);
  ASSERT_OK(embedding.Backward(execution, dy, tokens));
  ExpectGradientMatches("weight", embedding.weight().parameter.value,
                        embedding.weight().parameter.gradient.Clone(), [&] {
                          auto y = embedding.Forward(execution, tokens);
                          EXPECT_OK(y);
                          return WeightedSum(*y, dy);
                        });
}

// 300 tokens: three chunks, the last one cut.
TEST(TokenLogProbabilityHeadTest, BothWaysInMatchFiniteDifferences) {
  Execution execution;
  Parameter weight{.name = "lm_head.weight",
                   .shape = {7, 3},
                   .dtype = DType::kF64,
                   .value = UniformTensor({7, 3}, 1),
                   .gradient = Tensor::OnHost(DType::kF64, {7, 3})};
  TokenLogProbabilityHead head(weight, SingleRankMesh());
  Tensor x = UniformTensor({300, 3}, 2);
  Tensor targets = Tensor::OnHost(DType::kI32, {300});
  for (int32_t t = 0; t < 300; ++t) targets.data<int32_t>()[t] = (t * 5) % 7;
  const Tensor coefficients = UniformTensor({300}, 3);
  const auto loss = [&] {
    auto log_probability = head.LogProbabilities(execution, x, targets);
    EXPECT_OK(log_probability);
    return WeightedSum(*log_probability, coefficients);
  };
  ASSERT_OK_AND_ASSIGN(const auto result,
                       head.LossAndGradient(execution, x, targets, coefficients));
  EXPECT_NEAR(WeightedSum(result.log_probability, coefficients), loss(), 1e-12);
  ExpectGradientMatches("x", x, result.dx, loss);
  ExpectGradientMatches("weight", weight.value, weight.gradient.Clone(), loss);

  const Tensor first = weight.gradient.Clone();
  weight.gradient.FillZero();
  ASSERT_OK_AND_ASSIGN(const Tensor dx, head.Backward(execution, x, targets, coefficients));
  ExpectSameBits("dx", dx, result.dx);
  ExpectSameBits("weight gradient", weight.gradient, first);
}

}  // namespace
}  // namespace plait
