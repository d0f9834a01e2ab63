// References as other makers lay them out, and what a checkpoint says about its padding.
#include <gtest/gtest.h>

#include "tests/support/parity_fixture.h"

namespace plait {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

// fixtures/tiny_jamba/unusual.h5, which make_unusual_reference.py beside this file describes.
absl::StatusOr<ParityReport> CompareUnusual(const ParityFixture& fixture) {
  return CompareFixture(fixture, "unusual.h5");
}

const ParityDifference& Named(const ParityReport& report, const std::string& name) {
  for (const ParityDifference& difference : report.differences) {
    if (difference.name == name) return difference;
  }
  PLAIT_CHECK(false);
  return report.differences[0];
}

ParityFixture UnusualFixture() {
  ParityFixture fixture("tiny_jamba");
  fixture.options.end_ids = {54};
  return fixture;
}

TEST(ReferenceLayoutTest, AnUnusualReferencePasses) {
  ASSERT_OK_AND_ASSIGN(const ParityReport report, CompareUnusual(UnusualFixture()));
  for (const ParityDifference& difference : report.differences)
    EXPECT_TRUE(difference.passed()) << difference.name << " " << difference.error;
  EXPECT_EQ(report.differences.size(), 4 + 1 + 4);
}

TEST(ReferenceLayoutTest, ALossWithoutTheAuxiliaryLossIsRecognised) {
  ASSERT_OK_AND_ASSIGN(const ParityReport report, CompareUnusual(UnusualFixture()));
  EXPECT_EQ(report.auxiliary_loss_coefficient, 0);
  EXPECT_NEAR(Named(report, "auxiliary_loss").ours, 2, 0.3);
}

TEST(ReferenceLayoutTest, WithoutAttributesTheDefaultTolerancesHold) {
  ParityFixture fixture = UnusualFixture();
  fixture.options.tolerance_loss = 3e-5;
  ASSERT_OK_AND_ASSIGN(const ParityReport report, CompareUnusual(fixture));
  constexpr double kLogits = 1.0381318;  // their root mean square in that file
  EXPECT_NEAR(Named(report, "logits").tolerance, kLogits * 1e-4, 1e-9);
  EXPECT_EQ(Named(report, "loss").tolerance, 3e-5);
  EXPECT_NEAR(Named(report, "greedy").tolerance, kLogits * 2e-4, 1e-9);
  EXPECT_EQ(Named(report, "gradients/model.layers.1.feed_forward.experts.gate_up_proj").tolerance,
            1e-4);
}

// Large logits: the same rounding of their sums is larger in proportion.
TEST(ReferenceLayoutTest, TheTolerancesOfLogitsGrowWithTheLogits) {
  ASSERT_OK_AND_ASSIGN(const ParityReport report, CompareFixture(ParityFixture("odd_jamba")));
  constexpr double kLogits = 5.0263463;  // their root mean square in that file
  EXPECT_NEAR(Named(report, "logits").tolerance, kLogits * 1e-4, 1e-9);
  EXPECT_NEAR(Named(report, "greedy").tolerance, kLogits * 2e-4, 1e-9);
}

TEST(ReferenceLayoutTest, ParametersWithoutAGradientAreNamed) {
  ASSERT_OK_AND_ASSIGN(const ParityReport report, CompareUnusual(UnusualFixture()));
  EXPECT_THAT(report.without_gradient, Contains("lm_head.weight"));
  EXPECT_THAT(report.without_gradient,
              Contains("model.layers.3.feed_forward.experts.gate_up_proj"));
  EXPECT_THAT(report.without_gradient,
              Not(Contains("model.layers.1.feed_forward.experts.gate_up_proj")));
  EXPECT_THAT(report.without_gradient,
              Not(Contains("model.layers.3.feed_forward.experts.down_proj")));
}

TEST(ReferenceLayoutTest, PaddingAfterAnyOtherTokenIsCompared) {
  ParityFixture fixture = UnusualFixture();
  fixture.options.end_ids = {2};
  ASSERT_OK_AND_ASSIGN(const ParityReport report, CompareUnusual(fixture));
  EXPECT_FALSE(Named(report, "greedy").passed());
  EXPECT_EQ(Named(report, "greedy").reference, 0);
}

// The look-ups of the padding id, which row 0 holds once, reach the embedding's gradient.
TEST(ReferenceLayoutTest, WithoutItsPaddingIdTheEmbeddingsGradientDiffers) {
  for (const char* name : {"tiny_jamba", "odd_jamba"}) {
    ParityFixture fixture(name);
    fixture.options.padding_id.reset();
    ASSERT_OK_AND_ASSIGN(const ParityReport report, CompareFixture(fixture));
    const ParityDifference& embedding = Named(report, "gradients/model.embed_tokens.weight");
    EXPECT_GT(embedding.error, 1e-2) << name;
    EXPECT_EQ(embedding.index[0], 0) << name;
    EXPECT_TRUE(Named(report, "logits").passed()) << name;
  }
}

TEST(ReferenceLayoutTest, NumbersThatAreNoneFail) {
  ParityFixture fixture("tiny_llama");
  fixture.tensors.at("model.norm.weight").data<float>()[3] =
      std::numeric_limits<float>::quiet_NaN();
  ASSERT_OK_AND_ASSIGN(const ParityReport report, CompareFixture(fixture));
  for (const ParityDifference& difference : report.differences) {
    EXPECT_EQ(difference.passed(), difference.name == "auxiliary_loss") << difference.name;
  }
}

TEST(ReferenceLayoutTest, NamesATensorThatTheModelLacks) {
  ParityFixture fixture("tiny_llama");
  fixture.recipe.mutable_model()->set_layers(2);
  EXPECT_THAT(
      CompareFixture(fixture),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("gradients/model.layers.2.input_layernorm.weight: the model has no "
                         "such parameter")));
}

}  // namespace
}  // namespace plait
