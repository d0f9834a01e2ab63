#include "recipes/recipe_overrides.h"

#include "recipes/recipe_digest.h"
#include "recipes/recipe_loader.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using recipe::v1::ActivationLoss;
using recipe::v1::Recipe;
using recipe::v1::Trainer;

class RecipeOverridesTest : public ::testing::Test {
 protected:
  RecipeOverridesTest()
      : recipe_(*ParseRecipe("stages { steps: 1 } stages { steps: 2 }", "test")) {}

  void Set(const std::string& assignment) { EXPECT_OK(ApplyOverride(assignment, recipe_)); }

  std::string Error(const std::string& assignment) {
    const std::string before = RecipeText(recipe_);
    const absl::Status status = ApplyOverride(assignment, recipe_);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(RecipeText(recipe_), before) << "a refused override must change nothing";
    return std::string(status.message());
  }

  Recipe recipe_;
};

TEST_F(RecipeOverridesTest, SetsEveryKindOfValue) {
  Set("seed=18446744073709551615");
  Set("schema_version=1");
  Set("model.layers=12");
  Set("model.tied_embeddings=true");
  Set("optim.adamw.beta1=0.85");
  Set("trainer.precision=F32");
  Set("data.path=some/folder=with.dots");
  EXPECT_EQ(recipe_.seed(), ~0ull);
  EXPECT_EQ(recipe_.schema_version(), 1);
  EXPECT_EQ(recipe_.model().layers(), 12);
  EXPECT_TRUE(recipe_.model().tied_embeddings());
  EXPECT_EQ(recipe_.optim().adamw().beta1(), 0.85);
  EXPECT_EQ(recipe_.trainer().precision(), Trainer::F32);
  EXPECT_EQ(recipe_.data().path(), "some/folder=with.dots");
}

TEST_F(RecipeOverridesTest, CreatesMessagesOnTheWay) {
  Set("model.attention.rotary_embedding.theta=500000");
  EXPECT_EQ(recipe_.model().attention().rotary_embedding().theta(), 500000);
}

TEST_F(RecipeOverridesTest, ReachesStagesByIndex) {
  Set("stages.1.steps=20");
  Set("stages.1.schedule.shape=LINEAR");
  EXPECT_EQ(recipe_.stages(0).steps(), 1);
  EXPECT_EQ(recipe_.stages(1).steps(), 20);
  EXPECT_EQ(recipe_.stages(1).schedule().shape(), recipe::v1::Schedule::LINEAR);
}

TEST_F(RecipeOverridesTest, ReplacesRepeatedValuesWhole) {
  Set("model.activation_loss.sites=RESIDUAL");
  Set("model.activation_loss.sites=BLOCK_OUTPUT,EXPERT_OUTPUT");
  ASSERT_EQ(recipe_.model().activation_loss().sites_size(), 2);
  EXPECT_EQ(recipe_.model().activation_loss().sites(1), ActivationLoss::EXPERT_OUTPUT);
  Set("model.activation_loss.sites=");
  EXPECT_EQ(recipe_.model().activation_loss().sites_size(), 0);
}

TEST_F(RecipeOverridesTest, ErrorsNamePathAndWhatIsAccepted) {
  EXPECT_EQ(Error("model.hedas=7"),
            "--set model.hedas=7: model has no field 'hedas'; its fields are family, vocabulary, "
            "model_dim, hidden_dim, layers, schedule, pattern, attention, mamba, experts, "
            "rms_norm_epsilon, tied_embeddings, initializer_range, activation_loss");
  EXPECT_EQ(
      Error("model.attention.hedas=7"),
      "--set model.attention.hedas=7: model.attention has no field 'hedas'; nearest is 'heads'");
  EXPECT_EQ(
      Error("trainer.precision=BF61"),
      "--set trainer.precision=BF61: expected one of BF16, F32, F64, got 'BF61'; nearest is BF16");
  EXPECT_EQ(Error("trainer.precision=PRECISION_UNSPECIFIED"),
            "--set trainer.precision=PRECISION_UNSPECIFIED: expected one of BF16, F32, F64, got "
            "'PRECISION_UNSPECIFIED'");
  EXPECT_EQ(Error("model.layers=seven"),
            "--set model.layers=seven: expected an integer, got 'seven'");
  EXPECT_EQ(Error("model.layers=1e3"), "--set model.layers=1e3: expected an integer, got '1e3'");
  EXPECT_EQ(Error("seed=-1"), "--set seed=-1: expected an integer of at least 0, got '-1'");
  EXPECT_EQ(Error("optim.adamw.beta1=nan"),
            "--set optim.adamw.beta1=nan: expected a finite number, got 'nan'");
  EXPECT_EQ(Error("optim.adamw.beta1=1e999"),
            "--set optim.adamw.beta1=1e999: expected a finite number, got '1e999'");
  EXPECT_EQ(Error("model.tied_embeddings=yes"),
            "--set model.tied_embeddings=yes: expected true or false, got 'yes'");
}

TEST_F(RecipeOverridesTest, ErrorsOfPaths) {
  EXPECT_EQ(Error("model.layers"),
            "--set model.layers: expected path=value, as in trainer.precision=F32");
  EXPECT_EQ(Error("=3"), "--set =3: expected path=value, as in trainer.precision=F32");
  EXPECT_EQ(Error("data=x"),
            "--set data=x: data is a group of fields; set one of them: path, prefetch_batches");
  EXPECT_EQ(Error("model.layers.x=3"),
            "--set model.layers.x=3: model.layers is a value and has no fields");
  EXPECT_EQ(
      Error("stages.2.steps=3"),
      "--set stages.2.steps=3: stages has 2 entries; name one by its index from 0, as in stages.0");
  EXPECT_EQ(Error("stages.-1.steps=3"),
            "--set stages.-1.steps=3: stages has 2 entries; name one by its index from 0, as in "
            "stages.0");
  EXPECT_EQ(Error("stages=3"),
            "--set stages=3: stages has 2 entries; name one by its index from 0, as in stages.0");
  EXPECT_EQ(Error("model.activation_loss.sites=RESIDUAL,x"),
            "--set model.activation_loss.sites=RESIDUAL,x: expected one of BLOCK_OUTPUT, "
            "EXPERT_OUTPUT, RESIDUAL, got 'x'");
  EXPECT_EQ(Error("stages.1=3"),
            "--set stages.1=3: stages.1 is a group of fields; set one of them: name, steps, "
            "row_tokens, tokens_per_step, rows_per_microbatch, schedule");
  EXPECT_EQ(Error("name=\xff"), "--set name=\xff: expected valid UTF-8 text");
}

}  // namespace
}  // namespace plait
