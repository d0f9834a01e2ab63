#include "optim/adamw.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "base/number_at.h"
#include "optim/gradient_clipping.h"
#include "recipes/schema/optim.pb.h"
#include "tests/optim/optimizer_fixture.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

constexpr double kBeta1 = 0.85, kBeta2 = 0.97, kEpsilon = 1e-6, kDecay = 0.2;

recipe::v1::AdamW Config() {
  recipe::v1::AdamW config;
  config.set_beta1(kBeta1);
  config.set_beta2(kBeta2);
  config.set_epsilon(kEpsilon);
  config.set_weight_decay(kDecay);
  return config;
}

std::unique_ptr<AdamW> Make(SmallModel& model) {
  auto adamw = AdamW::Create(model.execution(), Config(), model.parameters());
  EXPECT_OK(adamw);
  return std::move(adamw).value();
}

// AdamW in doubles, written out. decay: 0 for parameters outside the group.
struct Reference {
  std::vector<double> p, m, v;
  double decay;

  void Step(const Tensor& gradient, double learning_rate, double scale, int t) {
    for (size_t i = 0; i < p.size(); ++i) {
      const double g = scale * NumberAt(gradient, static_cast<int64_t>(i));
      m[i] = kBeta1 * m[i] + (1 - kBeta1) * g;
      v[i] = kBeta2 * v[i] + (1 - kBeta2) * g * g;
      p[i] *= 1 - learning_rate * decay;
      p[i] -= learning_rate * (m[i] / (1 - std::pow(kBeta1, t))) /
              (std::sqrt(v[i]) / std::sqrt(1 - std::pow(kBeta2, t)) + kEpsilon);
    }
  }
};

// Largest difference from the reference after 20 steps with varying rate and scale.
double DifferenceAfterTwentySteps(DType dtype) {
  SmallModel model(dtype);
  std::vector<Reference> references;
  for (const ShardedParameter& parameter : model.parameters()) {
    Reference reference;
    for (int64_t i = 0; i < parameter.master.num_elements(); ++i) {
      reference.p.push_back(NumberAt(parameter.master, i));
    }
    reference.m.resize(reference.p.size());
    reference.v.resize(reference.p.size());
    reference.decay = parameter.name == "model.layers.0.mamba.A_log" ? 0.0 : kDecay;
    references.push_back(reference);
  }
  const auto adamw = Make(model);
  for (int t = 1; t <= 20; ++t) {
    const double learning_rate = 0.01 / t, scale = t % 3 == 0 ? 0.25 : 1.0;
    model.FillGradients(t);
    EXPECT_OK(adamw->Step(model.execution(), learning_rate, scale));
    for (size_t k = 0; k < references.size(); ++k) {
      references[k].Step(model.parameters()[k].gradient, learning_rate, scale, t);
    }
  }
  double largest = 0;
  for (size_t k = 0; k < references.size(); ++k) {
    const ShardedParameter& parameter = model.parameters()[k];
    for (size_t i = 0; i < references[k].p.size(); ++i) {
      const double found = NumberAt(parameter.master, static_cast<int64_t>(i));
      largest = std::max(largest, std::abs(found - references[k].p[i]));
      if (parameter.compute.dtype() == DType::kBf16) {
        EXPECT_EQ(parameter.compute.data<BFloat16>()[i].bits,
                  BFloat16(static_cast<float>(found)).bits);
      }
    }
  }
  EXPECT_EQ(adamw->step(), 20);
  return largest;
}

TEST(AdamWTest, TwentyStepsInF64EqualTheReference) {
  // Values are below 2: a handful of roundings of 2e-16 in each of 20 steps.
  EXPECT_LT(DifferenceAfterTwentySteps(DType::kF64), 1e-14);
}

TEST(AdamWTest, TwentyStepsInF32EqualTheReferenceToRounding) {
  // Each step rounds values below 1.2 a few times by at most 6e-8.
  EXPECT_LT(DifferenceAfterTwentySteps(DType::kF32), 20 * 3 * 6e-8);
}

TEST(AdamWTest, Bf16ValuesHaveF32MastersAndAreTheirRounding) {
  EXPECT_LT(DifferenceAfterTwentySteps(DType::kBf16), 20 * 3 * 6e-8);
}

TEST(AdamWTest, ResumeContinuesBitForBit) {
  SmallModel straight(DType::kBf16), stopped(DType::kBf16), resumed(DType::kBf16);
  const auto run = [](SmallModel& model, AdamW& adamw, int begin, int end) {
    for (int t = begin; t < end; ++t) {
      model.FillGradients(t);
      ASSERT_OK(adamw.Step(model.execution(), 0.01, 1.0));
    }
  };
  const auto adamw_straight = Make(straight), adamw_stopped = Make(stopped),
             adamw_resumed = Make(resumed);
  run(straight, *adamw_straight, 1, 9);
  run(stopped, *adamw_stopped, 1, 5);

  NamedState saved, loaded;
  stopped.sharder().AppendState(saved);
  adamw_stopped->AppendState(saved);
  resumed.sharder().AppendState(loaded);
  adamw_resumed->AppendState(loaded);
  ASSERT_EQ(saved.tensors.size(), 9u);
  EXPECT_EQ(saved.tensors[3].name, "adamw.first_moment/model.embed_tokens.weight");
  EXPECT_EQ(saved.tensors[4].name, "adamw.second_moment/model.embed_tokens.weight");
  EXPECT_EQ(saved.tensors[3].spec.logical_shape, Shape({37, 11}));
  for (size_t i = 0; i < saved.tensors.size(); ++i) {
    ASSERT_EQ(saved.tensors[i].name, loaded.tensors[i].name);
    std::memcpy(loaded.tensors[i].shard.raw(), saved.tensors[i].shard.raw(),
                saved.tensors[i].shard.bytes());
  }
  loaded.integers = saved.integers;
  ASSERT_OK(adamw_resumed->RestoreScalars(loaded));
  ASSERT_OK(resumed.sharder().RefreshComputeValues());
  run(resumed, *adamw_resumed, 5, 9);

  NamedState a, b;
  straight.sharder().AppendState(a);
  adamw_straight->AppendState(a);
  resumed.sharder().AppendState(b);
  adamw_resumed->AppendState(b);
  EXPECT_EQ(a.integers, b.integers);
  for (size_t i = 0; i < a.tensors.size(); ++i) {
    EXPECT_EQ(
        std::memcmp(a.tensors[i].shard.raw(), b.tensors[i].shard.raw(), a.tensors[i].shard.bytes()),
        0)
        << a.tensors[i].name;
  }
  for (size_t i = 0; i < straight.parameters().size(); ++i) {
    const Tensor& compute = straight.parameters()[i].compute;
    EXPECT_EQ(std::memcmp(compute.raw(), resumed.parameters()[i].compute.raw(), compute.bytes()),
              0);
  }
}

TEST(AdamWTest, ResumeNeedsTheStep) {
  SmallModel model;
  const auto adamw = Make(model);
  NamedState state;
  EXPECT_THAT(adamw->RestoreScalars(state),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("adamw.step: missing")));
  state.integers["adamw.step"] = -1;
  EXPECT_THAT(adamw->RestoreScalars(state), StatusIs(absl::StatusCode::kOutOfRange,
                                                     HasSubstr("adamw.step: expected at least 0")));
}

TEST(AdamWTest, NonFiniteGradientsNeverReachTheMoments) {
  for (const float poison :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const double limit : {0.0, 1.0}) {
      SmallModel model;
      const auto adamw = Make(model);
      model.FillGradients(1);
      ASSERT_OK(adamw->Step(model.execution(), 0.01, 1.0));
      NamedState state;
      model.sharder().AppendState(state);
      adamw->AppendState(state);
      std::vector<Tensor> before;
      for (const NamedTensor& tensor : state.tensors) before.push_back(tensor.shard.Clone());

      model.parameters()[2].gradient.data<float>()[44] = poison;
      ASSERT_OK_AND_ASSIGN(const GradientNorm norm,
                           GlobalGradientNorm(model.execution(), model.mesh(), model.parameters()));
      EXPECT_THAT(adamw->Step(model.execution(), 0.01, ClipCoefficient(norm.norm, limit)),
                  StatusIs(absl::StatusCode::kFailedPrecondition,
                           HasSubstr("adamw: no update with gradient scale nan")));
      EXPECT_EQ(adamw->step(), 1);
      for (size_t i = 0; i < before.size(); ++i) {
        EXPECT_EQ(std::memcmp(before[i].raw(), state.tensors[i].shard.raw(), before[i].bytes()), 0);
      }
    }
  }
}

TEST(AdamWTest, RefusesALearningRateThatIsNotFinite) {
  SmallModel model;
  EXPECT_THAT(Make(model)->Step(model.execution(), std::numeric_limits<double>::infinity(), 1.0),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("learning rate inf")));
}

TEST(AdamWTest, AnErrorNamesTheParameter) {
  SmallModel model;
  std::vector<ShardedParameter> parameters(model.parameters().begin(), model.parameters().end());
  ASSERT_OK_AND_ASSIGN(const auto adamw, AdamW::Create(model.execution(), Config(), parameters));
  parameters[1].gradient = Tensor::OnHost(DType::kF32, {35});
  EXPECT_THAT(
      adamw->Step(model.execution(), 0.01, 1.0),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("model.layers.0.mamba.A_log: gradient: expected width 36, got 35")));
}

TEST(AdamWTest, RefusesAParameterGivenTwice) {
  SmallModel model;
  std::vector<ShardedParameter> twice(2, model.parameters()[0]);
  EXPECT_THAT(
      AdamW::Create(model.execution(), Config(), twice),
      StatusIs(
          absl::StatusCode::kAlreadyExists,
          HasSubstr("model.embed_tokens.weight: the optimizer was given the parameter twice")));
}

}  // namespace
}  // namespace plait
