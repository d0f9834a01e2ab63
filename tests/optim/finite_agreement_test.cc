#include "optim/finite_agreement.h"

#include <limits>

#include "tests/optim/optimizer_fixture.h"

namespace plait {
namespace {

// Another rank's share of a maximum: what a second rank would have contributed.
class TwoRanks final : public Communicator {
 public:
  explicit TwoRanks(int64_t other) : other_(other) {}
  int rank() const override { return 0; }
  int size() const override { return 2; }
  absl::StatusOr<Event> AllReduce(Stream& stream, VectorView buffer,
                                  ReduceOperation operation) override {
    EXPECT_EQ(operation, ReduceOperation::kMax);
    EXPECT_EQ(buffer.size, 1);
    *buffer.as<int64_t>() = std::max(*buffer.as<int64_t>(), other_);
    return stream.Record();
  }
  absl::StatusOr<Event> AllGather(Stream& stream, ConstVectorView, VectorView) override {
    return stream.Record();
  }
  absl::StatusOr<Event> ReduceScatter(Stream& stream, ConstVectorView, VectorView) override {
    return stream.Record();
  }
  absl::StatusOr<Event> Broadcast(Stream& stream, VectorView, int) override {
    return stream.Record();
  }
  absl::StatusOr<Event> AllToAll(Stream& stream, ConstVectorView, std::span<const int64_t>,
                                 VectorView, std::span<const int64_t>) override {
    return stream.Record();
  }
  absl::StatusOr<Event> Send(Stream& stream, ConstVectorView, int) override {
    return stream.Record();
  }
  absl::StatusOr<Event> Receive(Stream& stream, VectorView, int) override {
    return stream.Record();
  }
  absl::Status Barrier() override { return absl::OkStatus(); }
  void Abort(std::string_view) override {}

 private:
  int64_t other_;
};

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
  SmallModel model;
  model.FillGradients(1);
  TwoRanks world(/*other=*/2);  // of three parameters, the other rank's second is not finite
  const FiniteAgreement agreement = Agree(model, world);
  EXPECT_FALSE(agreement.all_finite);
  EXPECT_EQ(agreement.first_parameter, "model.layers.0.mamba.A_log");
}

}  // namespace
}  // namespace plait
