#include "optim/finite_agreement.h"

#include <cmath>
#include <limits>

#include "base/status_macros.h"
#include "parallel/local_communicator.h"
#include "tests/optim/optimizer_fixture.h"

namespace plait {
namespace {

FiniteAgreement Agree(SmallModel& model, Communicator& world) {
  const auto norm = GlobalGradientNorm(model.execution(), model.mesh(), model.parameters());
  EXPECT_OK(norm);
  const auto agreement = AgreeOnFinite(world, *norm, model.parameters());
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

TEST(FiniteAgreementTest, EveryStageOfAPipelineNamesTheParameterOfAnother) {
  EXPECT_OK(RunLocalRanks(3, [](const std::shared_ptr<Communicator>& world) -> absl::Status {
    Execution execution({.num_threads = 1});
    PLAIT_ASSIGN_OR_RETURN(const DeviceMesh mesh, DeviceMesh::Create({3, 1, 1, 1, 1, 1}, world));
    Parameter parameters[] = {{"first", {130}}, {"second", {3, 4}}, {"third", {2}}};
    std::vector<ParameterUnit> units;
    for (int i = 0; i < 3; ++i) {
      units.push_back({.name = parameters[i].name,
                       .parameters = {&parameters[i]},
                       .is_elsewhere = i != world->rank()});
    }
    PLAIT_ASSIGN_OR_RETURN(const auto sharder, ParameterSharder::Create(execution, mesh, units));
    for (const int poisoned : {2, 1}) {
      if (world->rank() == poisoned) {
        parameters[poisoned].gradient.data<float>()[1] = std::numeric_limits<float>::infinity();
      }
      PLAIT_ASSIGN_OR_RETURN(const GradientNorm norm,
                             GlobalGradientNorm(execution, mesh, sharder->sharded()));
      EXPECT_TRUE(std::isnan(norm.norm));
      PLAIT_ASSIGN_OR_RETURN(const FiniteAgreement agreement,
                             AgreeOnFinite(*world, norm, sharder->sharded()));
      EXPECT_FALSE(agreement.all_finite);
      EXPECT_EQ(agreement.first_parameter, parameters[poisoned].name);
    }
    return absl::OkStatus();
  }));
}

}  // namespace
}  // namespace plait
