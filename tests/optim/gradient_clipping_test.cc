#include "optim/gradient_clipping.h"

#include <cmath>
#include <limits>

#include "base/number_at.h"
#include "tests/optim/optimizer_fixture.h"

namespace plait {
namespace {

TEST(GradientClippingTest, NormIsOverAllElementsOfAllParameters) {
  SmallModel model;
  model.FillGradients(1);
  double sum = 0;
  for (const ShardedParameter& parameter : model.parameters()) {
    for (int64_t i = 0; i < parameter.gradient.num_elements(); ++i) {
      sum += NumberAt(parameter.gradient, i) * NumberAt(parameter.gradient, i);
    }
  }
  ASSERT_OK_AND_ASSIGN(const GradientNorm norm,
                       GlobalGradientNorm(model.execution(), model.mesh(), model.parameters()));
  EXPECT_NEAR(norm.norm, std::sqrt(sum), 1e-12);  // both in f64
  EXPECT_EQ(norm.first_not_finite, 3u);
}

TEST(GradientClippingTest, FindsTheFirstParameterThatIsNotFinite) {
  SmallModel model;
  std::vector<ShardedParameter> parameters(model.parameters().begin(), model.parameters().end());
  // A rank's share need not touch every parameter.
  parameters[1].gradient = Tensor::OnHost(DType::kF32, {0});
  model.FillGradients(1);
  float* const last = parameters[2].gradient.data<float>();
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    last[parameters[2].gradient.num_elements() - 1] = bad;
    ASSERT_OK_AND_ASSIGN(const GradientNorm norm,
                         GlobalGradientNorm(model.execution(), model.mesh(), parameters));
    EXPECT_TRUE(std::isnan(norm.norm));
    EXPECT_EQ(norm.first_not_finite, 2u);
  }
  parameters[0].gradient.data<float>()[1] = -std::numeric_limits<float>::infinity();
  ASSERT_OK_AND_ASSIGN(const GradientNorm norm,
                       GlobalGradientNorm(model.execution(), model.mesh(), parameters));
  EXPECT_EQ(norm.first_not_finite, 0u);
}

TEST(GradientClippingTest, NoParametersHaveNoNorm) {
  SmallModel model;
  ASSERT_OK_AND_ASSIGN(const GradientNorm norm,
                       GlobalGradientNorm(model.execution(), model.mesh(), {}));
  EXPECT_EQ(norm.norm, 0);
}

TEST(GradientClippingTest, AnErrorNamesTheParameter) {
  SmallModel model;
  std::vector<ShardedParameter> parameters(model.parameters().begin(), model.parameters().end());
  parameters[1].gradient = Tensor::OnHost(DType::kF64, {36});
  EXPECT_THAT(
      GlobalGradientNorm(model.execution(), model.mesh(), parameters),
      StatusIs(absl::StatusCode::kInvalidArgument,
               ::testing::HasSubstr("model.layers.0.mamba.A_log: x: expected f32, got f64")));
}

TEST(GradientClippingTest, SumsInF64WhereF32WouldLoseElements) {
  Execution execution;
  const DeviceMesh mesh = *DeviceMesh::Create({1, 1, 0, 1, 1, 1}, MakeSingleRankCommunicator());
  constexpr int64_t kElements = 1 << 20;
  Parameter parameter{"wide.weight", {kElements}, DType::kF32, {}, {}};
  ASSERT_OK_AND_ASSIGN(auto sharder,
                       ParameterSharder::Create(execution, mesh, {{"wide", {&parameter}}}));
  for (float& value : parameter.gradient.values<float>()) value = 1.0f;
  parameter.gradient.data<float>()[0] = 1e6f;
  ASSERT_OK_AND_ASSIGN(const GradientNorm norm,
                       GlobalGradientNorm(execution, mesh, sharder->sharded()));
  EXPECT_EQ(norm.norm, std::sqrt(1e12 + (kElements - 1)));  // integers below 2^53: exact in f64
}

TEST(GradientClippingTest, NormDoesNotDependOnTheNumberOfThreads) {
  const DeviceMesh mesh = *DeviceMesh::Create({1, 1, 0, 1, 1, 1}, MakeSingleRankCommunicator());
  std::vector<double> norms;
  for (const int threads : {1, 2, 3}) {
    Execution execution({.device = {}, .num_threads = threads});
    Parameter parameter{"wide.weight", {100'003}, DType::kF32, {}, {}};
    ASSERT_OK_AND_ASSIGN(auto sharder,
                         ParameterSharder::Create(execution, mesh, {{"wide", {&parameter}}}));
    const Tensor values = UniformTensor({100'003}, /*seed=*/5, DType::kF32);
    std::copy(values.data<float>(), values.data<float>() + 100'003,
              parameter.gradient.data<float>());
    ASSERT_OK_AND_ASSIGN(const GradientNorm norm,
                         GlobalGradientNorm(execution, mesh, sharder->sharded()));
    norms.push_back(norm.norm);
  }
  EXPECT_EQ(norms[0], norms[1]);
  EXPECT_EQ(norms[0], norms[2]);
}

TEST(GradientClippingTest, ATiedParameterCountsOnce) {
  // Embedding and head share one Parameter: both add to its gradient, and it is one entry of one
  // unit.
  Execution execution;
  const DeviceMesh mesh = *DeviceMesh::Create({1, 1, 0, 1, 1, 1}, MakeSingleRankCommunicator());
  Parameter tied{"model.embed_tokens.weight", {2, 2}, DType::kF32, {}, {}};
  ASSERT_OK_AND_ASSIGN(auto sharder,
                       ParameterSharder::Create(execution, mesh, {{"embedding", {&tied}}}));
  tied.gradient.data<float>()[0] = 1;   // from the look-up
  tied.gradient.data<float>()[0] += 2;  // from the head
  tied.gradient.data<float>()[3] = 4;
  ASSERT_OK_AND_ASSIGN(const GradientNorm norm,
                       GlobalGradientNorm(execution, mesh, sharder->sharded()));
  EXPECT_EQ(norm.norm, 5.0);
  EXPECT_THAT(
      ParameterSharder::Create(execution, mesh, {{"embedding", {&tied}}, {"head", {&tied}}}),
      StatusIs(absl::StatusCode::kAlreadyExists, ::testing::_));
}

TEST(GradientClippingTest, CoefficientIsTheReferences) {
  EXPECT_EQ(ClipCoefficient(4.0, 1.0), 1.0 / (4.0 + 1e-6));
  EXPECT_EQ(ClipCoefficient(0.5, 1.0), 1.0);
  EXPECT_EQ(ClipCoefficient(1.0, 1.0), 1.0 / (1.0 + 1e-6));
  EXPECT_EQ(ClipCoefficient(0.0, 1.0), 1.0);
  EXPECT_EQ(ClipCoefficient(1e30, 0.0), 1.0);
  EXPECT_TRUE(std::isnan(ClipCoefficient(std::numeric_limits<double>::infinity(), 1.0)));
  EXPECT_TRUE(std::isnan(ClipCoefficient(std::numeric_limits<double>::quiet_NaN(), 0.0)));
}

}  // namespace
}  // namespace plait
