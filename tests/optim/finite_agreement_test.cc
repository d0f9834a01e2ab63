#include "optim/finite_agreement.h"

#include <limits>

#include "parallel/local_communicator.h"
#include "tests/optim/optimizer_fixture.h"

namespace plait {
namespace {

FiniteAgreement Agree(SmallModel& model, Communicator& world) {
  const auto norm = GlobalGradientNorm(model.execution(), model.mesh(), model.parameters());
  EXPECT_OK(norm);
  const auto agreement = AgreeOnFinite(model.execution(), world, *norm, model.parameters());
  EXPECT_OK(agreement);
  return agreement.value_or(FiniteAgreement());
}

TEST(FiniteAgreementTest, FiniteGradientsAgree) {
  SmallModel model;
  model.FillGradients(1);
  // The largest f32 squares without overflow in f64.
  model.parameters()[0].gradient.data<float>()[3] = std::numeric_limits<float>::max();
  const FiniteAgreement agreement = Agree(model, model.mesh().world());
  EXPECT_TRUE(agreement.all_finite);
  EXPECT_EQ(agreement.first_parameter, "");
}

TEST(FiniteAgreementTest, NamesTheFirstOffendingParameter) {
  for (const float poison :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    SmallModel model;
    model.FillGradients(1);
    model.parameters()[2].gradient.data<float>()[0] = poison;
    EXPECT_EQ(Agree(model, model.mesh().world()).first_parameter,
              "model.layers.0.mamba.out_proj.weight");
    model.parameters()[1].gradient.data<float>()[35] = poison;
    const FiniteAgreement agreement = Agree(model, model.mesh().world());
    EXPECT_FALSE(agreement.all_finite);
    EXPECT_EQ(agreement.first_parameter, "model.layers.0.mamba.A_log");
  }
}

TEST(FiniteAgreementTest, ARankWithFiniteGradientsLearnsOfAnothers) {
  EXPECT_OK(RunLocalRanks(2, [](const std::shared_ptr<Communicator>& world) {
    SmallModel model;
    model.FillGradients(1);
    if (world->rank() == 1) {
      model.parameters()[1].gradient.data<float>()[0] = std::numeric_limits<float>::infinity();
    }
    const FiniteAgreement agreement = Agree(model, *world);
    EXPECT_FALSE(agreement.all_finite);
    EXPECT_EQ(agreement.first_parameter, "model.layers.0.mamba.A_log");
    return absl::OkStatus();
  }));
}

}  // namespace
}  // namespace plait
