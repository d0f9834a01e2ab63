#include "recipes/recipe_loader.h"

#include <filesystem>
#include <fstream>
#include <limits>

#include "recipes/recipe_defaults.h"
#include "recipes/recipe_digest.h"
#include "recipes/recipe_validation.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using recipe::v1::Model;
using recipe::v1::Recipe;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string ErrorOf(const std::string& text) {
  return std::string(ParseRecipe(text, "r.textproto").status().message());
}

class LibraryTest : public ::testing::TestWithParam<std::string> {};

TEST_P(LibraryTest, LoadsAndValidatesOnOneRank) {
  const std::string path = "recipes/library/" + GetParam() + ".textproto";
  ASSERT_OK_AND_ASSIGN(const Recipe recipe, LoadValidRecipe(path, {}, /*world_size=*/1));
  EXPECT_EQ(recipe.name(), GetParam());
  EXPECT_EQ(recipe.model().activation_loss().coefficient(),
            recipe.model().family() == Model::JAMBA ? 1e-5 : 0.0);
  EXPECT_EQ(recipe.model().experts().balance_loss_coefficient(),
            recipe.model().family() == Model::JAMBA ? 0.001 : 0.0);
}

INSTANTIATE_TEST_SUITE_P(Recipes, LibraryTest,
                         ::testing::Values("demo_pretrain", "hybrid_1b", "jamba_1_5_mini",
                                           "jamba_1_5_large", "llama_2_7b", "llama_2_70b"),
                         [](const auto& test) { return test.param; });

TEST(LibraryFolderTest, EveryFileInItIsTested) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator("recipes/library")) {
    files += entry.path().extension() == ".textproto";
    EXPECT_OK(LoadValidRecipe(entry.path().string(), {}, /*world_size=*/1));
  }
  EXPECT_GE(files, 6);
}

TEST(RecipeLoaderTest, UnknownFieldsNameTheNearest) {
  EXPECT_EQ(ErrorOf("schema_version: 1\nmodel {\n  hiden_dim: 4\n}\n"),
            "r.textproto:3:3: model has no field 'hiden_dim'; nearest is 'hidden_dim'");
  EXPECT_EQ(ErrorOf("modle { }"),
            "r.textproto:1:1: recipe has no field 'modle'; nearest is 'model'");
  EXPECT_EQ(ErrorOf("stages { schedule { learning_rate: 1 } }"),
            "r.textproto:1:21: stages.schedule has no field 'learning_rate'; nearest is "
            "'learning_rate_peak'");
  EXPECT_EQ(ErrorOf("model { attention { Heads: 1 } }"),
            "r.textproto:1:21: model.attention has no field 'Heads'; nearest is 'heads'");
}

TEST(RecipeLoaderTest, FieldsNearNothingListWhatThereIs) {
  EXPECT_EQ(ErrorOf("data { zzzzzz: 1 }"),
            "r.textproto:1:8: data has no field 'zzzzzz'; its fields are path, prefetch_batches");
}

TEST(RecipeLoaderTest, UnknownEnumValuesListTheAcceptedOnes) {
  EXPECT_EQ(ErrorOf("model {\n family: LAMA\n}"),
            "r.textproto:2:10: model.family = LAMA is not one of JAMBA, LLAMA; nearest is LLAMA");
  EXPECT_EQ(ErrorOf("trainer { precision: 9 }"),
            "r.textproto:1:11: trainer.precision = 9 is not one of BF16, F32, F64");
  EXPECT_EQ(ErrorOf("model { family: FAMILY_UNSPECIFIED }"),
            "r.textproto:1:9: model.family = FAMILY_UNSPECIFIED is not one of JAMBA, LLAMA");
}

TEST(RecipeLoaderTest, NumbersMustBeFiniteAndFit) {
  EXPECT_EQ(ErrorOf("model { initializer_range: nan }"),
            "r.textproto:1:9: model.initializer_range = nan is not a finite number");
  EXPECT_EQ(ErrorOf("optim {\n  adamw { beta1: -inf }\n}"),
            "r.textproto:2:11: optim.adamw.beta1 = -inf is not a finite number");
  EXPECT_EQ(ErrorOf("stages { } stages { schedule { learning_rate_peak: 1e999 } }"),
            "r.textproto:1:32: stages.1.schedule.learning_rate_peak = inf is not a finite number");
  EXPECT_THAT(ErrorOf("model { layers: 99999999999999999999 }"),
              StartsWith("r.textproto:1:17: integer out of range"));
  EXPECT_THAT(ErrorOf("model { layers: 1.5 }"), StartsWith("r.textproto:1:17: expected integer"));
  EXPECT_THAT(ErrorOf("seed: -1"), StartsWith("r.textproto:1:7: expected integer, got: -"));
}

TEST(RecipeLoaderTest, SyntaxErrorsNameThePlace) {
  EXPECT_THAT(ErrorOf("model { layers: 2\n"), StartsWith("r.textproto:"));
  EXPECT_THAT(
      ErrorOf("seed: 1 seed: 2"),
      HasSubstr("r.textproto:1:13: non-repeated field \"seed\" is specified multiple times"));
  EXPECT_THAT(ErrorOf("name: \"abc"), StartsWith("r.textproto:1:11: "));
}

TEST(RecipeLoaderTest, TextMustBeUtf8) {
  EXPECT_EQ(ErrorOf("name: \"\xc3\x28\""), "r.textproto: byte 7 is not valid UTF-8 text");
  EXPECT_EQ(ErrorOf("name: \"\xed\xa0\x80\""), "r.textproto: byte 7 is not valid UTF-8 text");
  EXPECT_EQ(ErrorOf(std::string("na\0me", 5)), "r.textproto: byte 2 is not valid UTF-8 text");
  EXPECT_OK(ParseRecipe("name: \"žluťoučký \xf0\x9f\x90\xa6\"", "r.textproto"));
}

TEST(RecipeLoaderTest, EscapesMustNotMakeTextInvalid) {
  EXPECT_EQ(ErrorOf("name: \"\\377\""), "r.textproto:1:1: name = '\\377' is not valid UTF-8 text");
}

TEST(RecipeLoaderTest, EmptyMissingAndOversizedFilesAreNamed) {
  EXPECT_EQ(ErrorOf(""), "r.textproto: the file is empty");
  EXPECT_THAT(LoadRecipe("no/such.textproto"),
              StatusIs(absl::StatusCode::kNotFound, "no/such.textproto: no such recipe file"));
  EXPECT_THAT(LoadRecipe("recipes"), StatusIs(absl::StatusCode::kInvalidArgument,
                                              "recipes: expected a recipe file, got a folder"));
  const std::string path = ::testing::TempDir() + "/oversized.textproto";
  std::ofstream(path) << std::string((16 << 20) + 1, ' ');
  EXPECT_THAT(LoadRecipe(path), StatusIs(absl::StatusCode::kInvalidArgument,
                                         HasSubstr("expected a recipe of at most 16777216 bytes")));
  std::filesystem::remove(path);
}

TEST(RecipeLoaderTest, DeepNestingIsRefusedNotFollowed) {
  std::string text;
  for (int i = 0; i < 100000; ++i) text += "model {";
  EXPECT_THAT(ErrorOf(text), HasSubstr("model has no field 'model'"));
}

TEST(RecipeDefaultsTest, FillsWhatIsDocumented) {
  ASSERT_OK_AND_ASSIGN(const Recipe recipe,
                       ParseRecipe("model { family: JAMBA layers: 2 pattern: 'MdAd' model_dim: 100 "
                                   "attention { heads: 4 rotary_embedding {} } } "
                                   "stages { schedule { learning_rate_peak: 0.01 } }",
                                   "r.textproto"));
  const Recipe resolved = Resolved(recipe);
  EXPECT_EQ(resolved.seed(), 1u);
  EXPECT_EQ(resolved.model().rms_norm_epsilon(), 1e-6);
  EXPECT_EQ(resolved.model().initializer_range(), 0.02);
  EXPECT_EQ(resolved.model().attention().kv_heads(), 4);
  EXPECT_EQ(resolved.model().attention().head_dim(), 25);
  EXPECT_EQ(resolved.model().attention().rotary_embedding().theta(), 10000);
  EXPECT_EQ(resolved.model().mamba().mixer(), Model::MAMBA_1);
  EXPECT_EQ(resolved.model().mamba().dt_rank(), 7);
  EXPECT_EQ(resolved.model().mamba().state_dim(), 16);
  EXPECT_TRUE(resolved.model().mamba().conv_bias());
  EXPECT_EQ(resolved.model().mamba().dt_initialization(), recipe::v1::Mamba::MAMBA);
  EXPECT_EQ(resolved.model().activation_loss().sites_size(), 1);
  EXPECT_FALSE(resolved.model().has_experts());
  EXPECT_EQ(resolved.stages(0).rows_per_microbatch(), 1);
  EXPECT_EQ(resolved.stages(0).schedule().learning_rate_final(), 0.001);
  EXPECT_EQ(resolved.optim().adamw().beta2(), 0.95);
  EXPECT_EQ(resolved.trainer().precision(), recipe::v1::Trainer::BF16);
  EXPECT_EQ(resolved.trainer().log_every_steps(), 10);
  EXPECT_FALSE(resolved.parallel().has_shard());
  EXPECT_FALSE(resolved.trainer().has_threads_per_rank());
}

TEST(RecipeDefaultsTest, KeepsWhatIsSetAndChangesNothingTwice) {
  ASSERT_OK_AND_ASSIGN(const Recipe recipe,
                       ParseRecipe("seed: 0 optim { adamw { weight_decay: 0 } }", "r.textproto"));
  const Recipe once = Resolved(recipe);
  EXPECT_EQ(once.seed(), 0u);
  EXPECT_EQ(once.optim().adamw().weight_decay(), 0);
  EXPECT_EQ(RecipeText(Resolved(once)), RecipeText(once));
}

TEST(RecipeDefaultsTest, EveryResolvedLibraryRecipeReadsBack) {
  for (const auto& entry : std::filesystem::directory_iterator("recipes/library")) {
    ASSERT_OK_AND_ASSIGN(const Recipe recipe, LoadRecipe(entry.path().string()));
    const std::string text = RecipeText(Resolved(recipe));
    ASSERT_OK_AND_ASSIGN(const Recipe back, ParseRecipe(text, "shown"));
    EXPECT_EQ(RecipeText(back), text);
  }
}

TEST(RecipeDigestTest, IgnoresWordingAndDefaults) {
  ASSERT_OK_AND_ASSIGN(const Recipe a, ParseRecipe("name: 'x' seed: 1 # words", "a"));
  ASSERT_OK_AND_ASSIGN(const Recipe b,
                       ParseRecipe("seed: 1\nname: \"x\" trainer { log_every_steps: 10 }", "b"));
  ASSERT_OK_AND_ASSIGN(const Recipe c, ParseRecipe("name: 'x' debug { stop_after_steps: 3 }", "c"));
  EXPECT_EQ(RecipeDigest(a), RecipeDigest(b));
  EXPECT_EQ(RecipeDigest(a), RecipeDigest(c));
  EXPECT_EQ(RecipeDigest(a).size(), 32u);
}

TEST(RecipeDigestTest, SeesEverySetting) {
  ASSERT_OK_AND_ASSIGN(const Recipe a, ParseRecipe("optim { adamw { beta1: 0.9 } }", "a"));
  ASSERT_OK_AND_ASSIGN(
      const Recipe b,
      ParseRecipe(
          "optim { adamw { beta1: 0.90000000000000002220446049250313080847263336181640625 } }",
          "b"));
  ASSERT_OK_AND_ASSIGN(const Recipe c,
                       ParseRecipe("optim { adamw { beta1: 0.9000000000000002 } }", "c"));
  EXPECT_EQ(RecipeDigest(a), RecipeDigest(b));
  EXPECT_NE(RecipeDigest(a), RecipeDigest(c));
}

TEST(RecipeDigestTest, NamesWhatDiffersAsSettings) {
  ASSERT_OK_AND_ASSIGN(const Recipe a,
                       ParseRecipe("parallel { tensor: 2 shard: 4 } stages { steps: 1 } "
                                   "stages { steps: 2 } debug { stop_after_steps: 3 }",
                                   "a"));
  ASSERT_OK_AND_ASSIGN(const Recipe b,
                       ParseRecipe("parallel { expert_wave_tokens: 8 } trainer { precision: F32 } "
                                   "stages { steps: 1 } stages { steps: 5 name: 'x: y' }",
                                   "b"));
  EXPECT_EQ(RecipeDifferences(a, b),
            "parallel.shard: 4 -> unset; parallel.tensor: 2 -> 1; "
            "parallel.expert_wave_tokens: unset -> 8; stages.1.name: unset -> \"x: y\"; "
            "stages.1.steps: 2 -> 5; trainer.precision: BF16 -> F32");
  EXPECT_EQ(RecipeDifferences(a, a), "");
}

}  // namespace
}  // namespace plait
