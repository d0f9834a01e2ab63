#include "recipes/recipe_validation.h"

#include <limits>
#include <ostream>

#include "absl/strings/str_split.h"
#include "recipes/recipe_loader.h"
#include "recipes/recipe_overrides.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using recipe::v1::Recipe;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A valid recipe with every message; cases change it by overrides.
constexpr char kHybrid[] = R"(
  schema_version: 1
  model {
    family: JAMBA vocabulary: 512 model_dim: 256 hidden_dim: 384 layers: 4 pattern: "MdMeAdMe"
    attention { heads: 4 kv_heads: 2 }
    experts { experts: 4 }
  }
  data { path: "runs/test/data" }
  stages { name: "a" steps: 10 row_tokens: 64 rows_per_microbatch: 2 tokens_per_step: 512
           schedule { learning_rate_peak: 0.001 } }
  stages { name: "b" steps: 10 row_tokens: 256 tokens_per_step: 512
           schedule { learning_rate_peak: 0.001 } })";

constexpr char kLlama[] = R"(
  schema_version: 1
  model { family: LLAMA vocabulary: 512 model_dim: 256 hidden_dim: 384 layers: 4
          attention { heads: 4 rotary_embedding {} } }
  data { path: "runs/test/data" }
  stages { steps: 10 row_tokens: 64 tokens_per_step: 512 schedule { learning_rate_peak: 0.001 } })";

constexpr char kScheduled[] = R"(
  schema_version: 1
  model { family: JAMBA vocabulary: 512 model_dim: 256 hidden_dim: 384 layers: 8
          schedule { attention_layer_period: 4 attention_layer_offset: 2
                     expert_layer_period: 2 expert_layer_offset: 1 }
          attention { heads: 4 } experts { experts: 4 } }
  data { path: "runs/test/data" }
  stages { steps: 10 row_tokens: 64 tokens_per_step: 512 schedule { learning_rate_peak: 0.001 } })";

Recipe Parsed(const std::string& text) {
  auto recipe = ParseRecipe(text, "test");
  EXPECT_OK(recipe);
  return std::move(recipe).value_or(Recipe());
}

std::vector<std::string> Lines(const Recipe& recipe, int64_t world_size) {
  std::vector<std::string> lines;
  for (const RecipeProblem& problem : RecipeProblems(recipe, world_size)) {
    lines.push_back(problem.ToString());
  }
  return lines;
}

struct BadRecipe {
  std::string base;
  std::string overrides;  // separated by spaces
  std::string problem;    // the only one
  int64_t world_size = 1;
};

void PrintTo(const BadRecipe& bad, std::ostream* stream) { *stream << bad.overrides; }

class BadRecipeTest : public ::testing::TestWithParam<BadRecipe> {};

TEST_P(BadRecipeTest, HasOneProblemWithThisLine) {
  Recipe recipe = Parsed(GetParam().base);
  for (const std::string& assignment :
       std::vector<std::string>(absl::StrSplit(GetParam().overrides, ' ', absl::SkipEmpty()))) {
    ASSERT_OK(ApplyOverride(assignment, recipe));
  }
  EXPECT_THAT(Lines(recipe, GetParam().world_size), ElementsAre(GetParam().problem));
}

INSTANTIATE_TEST_SUITE_P(
    Model, BadRecipeTest,
    ::testing::Values(
        BadRecipe{kHybrid, "schema_version=2",
                  "recipe schema_version = 2 is not known; this build reads 1"},
        BadRecipe{kHybrid, "model.attention.heads=7 model.attention.kv_heads=7",
                  "recipe model.attention.heads = 7 does not divide model.model_dim = 256"},
        BadRecipe{kHybrid, "model.attention.heads=0",
                  "recipe model.attention.heads = 0 must be at least 1"},
        BadRecipe{kHybrid, "model.attention.kv_heads=3",
                  "recipe model.attention.kv_heads = 3 does not divide model.attention.heads = 4"},
        BadRecipe{kHybrid, "model.attention.kv_heads=0",
                  "recipe model.attention.kv_heads = 0 must be at least 1"},
        BadRecipe{kHybrid, "model.attention.head_dim=-64",
                  "recipe model.attention.head_dim = -64 must be at least 1"},
        BadRecipe{kHybrid, "model.attention.head_dim=63 model.attention.rotary_embedding.theta=1e4",
                  "recipe model.attention.head_dim = 63 must be even for "
                  "model.attention.rotary_embedding"},
        BadRecipe{kLlama, "model.attention.rotary_embedding.theta=0",
                  "recipe model.attention.rotary_embedding.theta = 0 must be greater than 0"},
        BadRecipe{kHybrid, "model.vocabulary=1", "recipe model.vocabulary = 1 must be at least 2"},
        BadRecipe{kHybrid, "model.vocabulary=999999999",
                  "recipe model.vocabulary = 999999999 must be at most 16777216"},
        BadRecipe{kHybrid, "model.hidden_dim=0", "recipe model.hidden_dim = 0 must be at least 1"},
        BadRecipe{kLlama, "model.layers=0", "recipe model.layers = 0 must be at least 1"},
        BadRecipe{kLlama, "model.layers=5000", "recipe model.layers = 5000 must be at most 1024"},
        BadRecipe{kHybrid, "model.layers=8",
                  "recipe model.pattern = MdMeAdMe has 4 layers, expected model.layers = 8"},
        BadRecipe{kHybrid, "model.pattern=MdMxAdMe",
                  "recipe model.pattern = MdMxAdMe is not a pattern: column 4: expected a "
                  "feed-forward, d (dense) or e (experts), found 'x'"},
        BadRecipe{kHybrid, "model.pattern=4*Md",
                  "recipe model.experts.experts = 4 has no layer to be in; give the schedule or "
                  "the pattern an expert layer"},
        BadRecipe{kScheduled, "model.pattern=8*Md",
                  "recipe model.pattern = 8*Md and model.schedule exclude each other"},
        BadRecipe{kScheduled, "model.schedule.attention_layer_offset=4",
                  "recipe model.schedule.attention_layer_offset = 4 must be less than "
                  "model.schedule.attention_layer_period = 4"},
        BadRecipe{kScheduled, "model.schedule.expert_layer_offset=-1",
                  "recipe model.schedule.expert_layer_offset = -1 must be at least 0"},
        BadRecipe{kScheduled, "model.schedule.expert_layer_period=0",
                  "recipe model.schedule.expert_layer_period = 0 must be at least 1"},
        BadRecipe{kHybrid, "parallel.expert_wave_tokens=0",
                  "recipe parallel.expert_wave_tokens = 0 must be at least 1"},
        BadRecipe{kLlama, "model.pattern=4*Ad",
                  "recipe model.pattern = 4*Ad does not fit model.family = LLAMA; remove it"},
        BadRecipe{kLlama, "model.experts.experts=8",
                  "recipe model.experts = {...} does not fit model.family = LLAMA; remove it"},
        BadRecipe{kLlama, "model.mamba.state_dim=8",
                  "recipe model.mamba = {...} does not fit model.family = LLAMA; remove it"},
        BadRecipe{kHybrid, "model.mamba.mixer=MAMBA_2",
                  "recipe model.mamba.mixer = MAMBA_2 is not built yet; use MAMBA_1"},
        BadRecipe{kHybrid, "model.mamba.mixer=ATTENTION",
                  "recipe model.mamba.mixer = ATTENTION is not a Mamba mixer; use MAMBA_1 and "
                  "choose attention layers in the pattern"},
        BadRecipe{kHybrid, "model.mamba.state_dim=0",
                  "recipe model.mamba.state_dim = 0 must be at least 1"},
        BadRecipe{kHybrid, "model.mamba.conv_width=0",
                  "recipe model.mamba.conv_width = 0 must be at least 1"},
        BadRecipe{kHybrid, "model.mamba.expand=0",
                  "recipe model.mamba.expand = 0 must be at least 1"},
        BadRecipe{kHybrid, "model.mamba.dt_rank=-2",
                  "recipe model.mamba.dt_rank = -2 must be at least 1"},
        BadRecipe{kHybrid, "model.experts.experts=1",
                  "recipe model.experts.experts = 1 must be at least 2"},
        BadRecipe{kHybrid, "model.experts.experts_per_token=5",
                  "recipe model.experts.experts_per_token = 5 must be at most "
                  "model.experts.experts = 4"},
        BadRecipe{kHybrid, "model.experts.experts_per_token=0",
                  "recipe model.experts.experts_per_token = 0 must be at least 1"},
        BadRecipe{kHybrid, "model.experts.balance_loss_coefficient=-0.5",
                  "recipe model.experts.balance_loss_coefficient = -0.5 must be at least 0"},
        BadRecipe{kHybrid, "model.experts.z_loss_coefficient=-1",
                  "recipe model.experts.z_loss_coefficient = -1 must be at least 0"},
        BadRecipe{kHybrid, "model.rms_norm_epsilon=0",
                  "recipe model.rms_norm_epsilon = 0 must be greater than 0"},
        BadRecipe{kHybrid, "model.initializer_range=-1",
                  "recipe model.initializer_range = -1 must be greater than 0"},
        BadRecipe{kHybrid, "model.activation_loss.coefficient=-1",
                  "recipe model.activation_loss.coefficient = -1 must be at least 0"},
        BadRecipe{kHybrid, "model.activation_loss.sites=BLOCK_OUTPUT,BLOCK_OUTPUT",
                  "recipe model.activation_loss.sites.1 = BLOCK_OUTPUT is listed twice"}));

INSTANTIATE_TEST_SUITE_P(
    Stages, BadRecipeTest,
    ::testing::Values(
        BadRecipe{kHybrid, "stages.1.steps=0", "recipe stages.1.steps = 0 must be at least 1"},
        BadRecipe{kHybrid, "stages.0.row_tokens=0",
                  "recipe stages.0.row_tokens = 0 must be at least 1"},
        BadRecipe{kHybrid, "stages.0.rows_per_microbatch=0",
                  "recipe stages.0.rows_per_microbatch = 0 must be at least 1"},
        BadRecipe{kHybrid, "stages.0.tokens_per_step=-512",
                  "recipe stages.0.tokens_per_step = -512 must be at least 1"},
        BadRecipe{kHybrid, "stages.0.tokens_per_step=500",
                  "recipe stages.0.tokens_per_step = 500 is not a multiple of rows_per_microbatch "
                  "x row_tokens = 128"},
        BadRecipe{kHybrid, "stages.0.rows_per_microbatch=2000000 stages.0.row_tokens=2000000",
                  "recipe stages.0.rows_per_microbatch = 2000000 makes microbatches of "
                  "4000000000000 tokens, at most 2147483647 fit"},
        BadRecipe{kHybrid, "stages.1.name=a",
                  "recipe stages.1.name = a is also the name of stages.0"},
        BadRecipe{kHybrid, "stages.0.schedule.learning_rate_peak=0",
                  "recipe stages.0.schedule.learning_rate_peak = 0 must be greater than 0"},
        BadRecipe{kHybrid, "stages.0.schedule.learning_rate_final=0.1",
                  "recipe stages.0.schedule.learning_rate_final = 0.1 must be at most "
                  "stages.0.schedule.learning_rate_peak = 0.001"},
        BadRecipe{kHybrid, "stages.0.schedule.learning_rate_start=-1",
                  "recipe stages.0.schedule.learning_rate_start = -1 must be at least 0"},
        BadRecipe{kHybrid, "stages.0.schedule.warmup_steps=10",
                  "recipe stages.0.schedule.warmup_steps = 10 must be less than the stage's steps "
                  "= 10"},
        BadRecipe{kHybrid, "stages.0.schedule.warmup_steps=-1",
                  "recipe stages.0.schedule.warmup_steps = -1 must be at least 0"},
        BadRecipe{kHybrid, "stages.0.schedule.decay_steps=3",
                  "recipe stages.0.schedule.decay_steps = 3 belongs to stages.0.schedule.shape = "
                  "CONSTANT_WITH_DECAY alone"},
        BadRecipe{kHybrid, "stages.0.schedule.shape=CONSTANT_WITH_DECAY",
                  "recipe stages.0.schedule.decay_steps is required by stages.0.schedule.shape = "
                  "CONSTANT_WITH_DECAY"},
        BadRecipe{kHybrid,
                  "stages.0.schedule.shape=CONSTANT_WITH_DECAY stages.0.schedule.decay_steps=8 "
                  "stages.0.schedule.warmup_steps=3",
                  "recipe stages.0.schedule.decay_steps = 8 must be at most steps - warmup_steps = "
                  "7"}));

INSTANTIATE_TEST_SUITE_P(
    Rest, BadRecipeTest,
    ::testing::Values(
        BadRecipe{kHybrid, "data.path=",
                  "recipe data.path is required (the folder that plait prepare wrote)"},
        BadRecipe{kHybrid, "data.prefetch_batches=0",
                  "recipe data.prefetch_batches = 0 must be at least 1"},
        BadRecipe{kHybrid, "optim.adamw.beta1=1",
                  "recipe optim.adamw.beta1 = 1 must be at least 0 and less than 1"},
        BadRecipe{kHybrid, "optim.adamw.beta2=-0.1",
                  "recipe optim.adamw.beta2 = -0.1 must be at least 0 and less than 1"},
        BadRecipe{kHybrid, "optim.adamw.epsilon=0",
                  "recipe optim.adamw.epsilon = 0 must be greater than 0"},
        BadRecipe{kHybrid, "optim.adamw.weight_decay=-1",
                  "recipe optim.adamw.weight_decay = -1 must be at least 0"},
        BadRecipe{kHybrid, "optim.gradient_clip_norm=-1",
                  "recipe optim.gradient_clip_norm = -1 must be at least 0"},
        BadRecipe{kHybrid, "trainer.log_every_steps=0",
                  "recipe trainer.log_every_steps = 0 must be at least 1"},
        BadRecipe{kHybrid, "trainer.checkpoints_to_keep=0",
                  "recipe trainer.checkpoints_to_keep = 0 must be at least 1"},
        BadRecipe{kHybrid, "trainer.checkpoint_every_steps=-5",
                  "recipe trainer.checkpoint_every_steps = -5 must be at least 0"},
        BadRecipe{kHybrid, "trainer.evaluate_every_steps=-5",
                  "recipe trainer.evaluate_every_steps = -5 must be at least 0"},
        BadRecipe{kHybrid, "trainer.evaluation_tokens=0",
                  "recipe trainer.evaluation_tokens = 0 must be at least 1"},
        BadRecipe{kHybrid, "trainer.threads_per_rank=0",
                  "recipe trainer.threads_per_rank = 0 must be 1 to 1024"},
        BadRecipe{kHybrid, "trainer.threads_per_rank=4294967297",
                  "recipe trainer.threads_per_rank = 4294967297 must be 1 to 1024"},
        BadRecipe{kHybrid, "trainer.initial_checkpoint=",
                  "recipe trainer.initial_checkpoint = '' must name a folder; remove it for none"},
        BadRecipe{kHybrid, "debug.stop_after_steps=0",
                  "recipe debug.stop_after_steps = 0 must be at least 1"}));

INSTANTIATE_TEST_SUITE_P(
    Mesh, BadRecipeTest,
    ::testing::Values(
        BadRecipe{kHybrid, "parallel.replicate=0",
                  "recipe parallel.replicate = 0 must be at least 1"},
        BadRecipe{
            kHybrid, "parallel.shard=2",
            "recipe parallel = pipeline 1 x replicate 1 x shard 2 x context 1 x tensor 1 does "
            "not make a world of 1 ranks; start 2 or change an axis"},
        BadRecipe{kHybrid, "parallel.replicate=3",
                  "recipe parallel = pipeline 1 x replicate 3 x shard unset x context 1 x tensor 1 "
                  "does not make a world of 4 ranks; start a multiple of 3 or change an axis",
                  4},
        BadRecipe{kHybrid,
                  "parallel.pipeline=3 parallel.replicate=1048576 parallel.shard=1048576 "
                  "stages.0.tokens_per_step=140737488355328 "
                  "stages.1.tokens_per_step=281474976710656",
                  "recipe parallel = pipeline 3 x replicate 1048576 x shard 1048576 x context 1 x "
                  "tensor 1 does not make a world of 4 ranks; start more than 1048576 or change an "
                  "axis",
                  4},
        BadRecipe{kHybrid, "parallel.replicate=1000000 parallel.context=256",
                  "recipe parallel.context = 256 does not divide stages.0.rows_per_microbatch x "
                  "stages.0.row_tokens = 128",
                  kAnyWorldSize},
        BadRecipe{kHybrid, "parallel.expert=3",
                  "recipe parallel.expert = 3 does not divide model.experts.experts = 4",
                  kAnyWorldSize},
        BadRecipe{
            kHybrid, "parallel.expert=4",
            "recipe parallel.expert = 4 does not divide parallel.shard x parallel.context = 2", 2},
        BadRecipe{
            kHybrid,
            "parallel.shard=6 parallel.expert=4 stages.0.tokens_per_step=768 "
            "stages.1.tokens_per_step=1536",
            "recipe parallel.expert = 4 does not divide parallel.shard x parallel.context = 6",
            kAnyWorldSize},
        BadRecipe{kHybrid, "parallel.expert=2 parallel.tensor=2 model.experts.experts=6",
                  "recipe parallel.expert x parallel.tensor = 4 does not divide "
                  "model.experts.experts = 6",
                  4},
        BadRecipe{kHybrid, "parallel.tensor=2 model.experts.experts=5",
                  "recipe parallel.tensor = 2 does not divide model.experts.experts = 5", 2},
        BadRecipe{kHybrid, "parallel.expert=2 parallel.reduction=CANONICAL",
                  "recipe parallel.expert = 2 is not built for parallel.reduction = CANONICAL; use "
                  "1, or DEFAULT",
                  2},
        BadRecipe{kHybrid, "parallel.expert=4 parallel.tensor=2",
                  "recipe parallel.expert x parallel.tensor = 8 does not divide "
                  "model.experts.experts = 4",
                  kAnyWorldSize},
        BadRecipe{kHybrid,
                  "parallel.tensor=2 stages.0.rows_per_microbatch=1 "
                  "stages.0.row_tokens=63 stages.0.tokens_per_step=630",
                  "recipe parallel.tensor = 2 does not divide stages.0.rows_per_microbatch x "
                  "stages.0.row_tokens = 63",
                  2},
        BadRecipe{kHybrid,
                  "parallel.tensor=2 parallel.context=64 stages.0.rows_per_microbatch=1 "
                  "stages.0.row_tokens=64 stages.0.tokens_per_step=640",
                  "recipe parallel.context x parallel.tensor = 128 does not divide "
                  "stages.0.rows_per_microbatch x stages.0.row_tokens = 64",
                  kAnyWorldSize},
        BadRecipe{kLlama, "parallel.expert=2", "recipe parallel.expert = 2 needs model.experts", 2},
        BadRecipe{kLlama,
                  "parallel.tensor=3 model.attention.heads=6 model.attention.head_dim=64 "
                  "model.vocabulary=510 model.hidden_dim=100 stages.0.row_tokens=96 "
                  "stages.0.tokens_per_step=960",
                  "recipe parallel.tensor = 3 does not divide model.hidden_dim = 100", 3},
        BadRecipe{kHybrid, "parallel.tensor=4",
                  "recipe parallel.tensor = 4 does not divide model.attention.kv_heads = 2", 4},
        BadRecipe{kHybrid, "parallel.pipeline=9",
                  "recipe parallel.pipeline = 9 is more stages than the 8 blocks of model.layers = "
                  "4",
                  9},
        BadRecipe{kHybrid, "parallel.pipeline=4 parallel.pipeline_chunks=3",
                  "recipe parallel.pipeline_chunks = 3 with parallel.pipeline = 4 is more parts "
                  "than the 8 blocks of model.layers = 4",
                  4},
        BadRecipe{kHybrid, "parallel.pipeline_chunks=2",
                  "recipe parallel.pipeline_chunks = 2 needs parallel.pipeline of at least 2; with "
                  "one stage there is nothing to interleave"},
        BadRecipe{kHybrid, "parallel.pipeline=0",
                  "recipe parallel.pipeline = 0 must be at least 1"},
        BadRecipe{kHybrid, "parallel.pipeline_chunks=0",
                  "recipe parallel.pipeline_chunks = 0 must be at least 1"},
        BadRecipe{kHybrid, "parallel.pipeline=3",
                  "recipe parallel = pipeline 3 x replicate 1 x shard unset x context 1 x tensor 1 "
                  "does not make a world of 4 ranks; start a multiple of 3 or change an axis",
                  4},
        BadRecipe{kHybrid, "parallel.pipeline=2 model.tied_embeddings=true",
                  "recipe model.tied_embeddings = true is not built for parallel.pipeline = 2; "
                  "untie them or use one stage",
                  2},
        BadRecipe{kHybrid, "parallel.device_sums=NCCL",
                  "recipe parallel.device_sums = NCCL is for GPUs; remove it or set trainer.device "
                  "= CUDA"},
        BadRecipe{kHybrid, "stages.1.tokens_per_step=2048 stages.0.tokens_per_step=128",
                  "recipe stages.0.tokens_per_step = 128 makes 1 microbatches, not a multiple of "
                  "the data-parallel size 2",
                  2}));

TEST(RecipeValidationTest, TheBasesOfTheCasesAreValid) {
  for (const char* base : {kHybrid, kLlama, kScheduled}) {
    EXPECT_THAT(Lines(Parsed(base), 1), IsEmpty());
    EXPECT_THAT(Lines(Parsed(base), kAnyWorldSize), IsEmpty());
    EXPECT_OK(ValidateRecipe(Parsed(base), 1));
  }
}

TEST(RecipeValidationTest, AnEmptyRecipeListsWhatIsRequired) {
  EXPECT_THAT(Lines(Recipe(), 1),
              ElementsAre("recipe schema_version is required (1)", "recipe model is required",
                          "recipe data.path is required (the folder that plait prepare wrote)",
                          "recipe stages is required (at least one)"));
}

TEST(RecipeValidationTest, AnEmptyModelAndStageListWhatIsRequired) {
  const Recipe recipe = Parsed("schema_version: 1 model {} data { path: 'x' } stages {}");
  EXPECT_THAT(
      Lines(recipe, 1),
      ElementsAre("recipe model.family is required (JAMBA or LLAMA)",
                  "recipe model.vocabulary is required", "recipe model.model_dim is required",
                  "recipe model.hidden_dim is required", "recipe model.layers is required",
                  "recipe model.pattern is required where model.schedule is not set",
                  "recipe stages.0.steps is required", "recipe stages.0.row_tokens is required",
                  "recipe stages.0.tokens_per_step is required",
                  "recipe stages.0.schedule is required"));
}

TEST(RecipeValidationTest, LayersAskForTheSettingsOfTheirKind) {
  Recipe recipe = Parsed(kHybrid);
  recipe.mutable_model()->clear_attention();
  recipe.mutable_model()->clear_experts();
  recipe.mutable_stages(0)->clear_schedule();
  recipe.mutable_stages(0)->mutable_schedule();
  EXPECT_THAT(Lines(recipe, 1),
              ElementsAre("recipe model.attention is required by the attention layers",
                          "recipe model.experts is required by the expert layers of model.pattern",
                          "recipe stages.0.schedule.learning_rate_peak is required"));
  recipe = Parsed(kScheduled);
  recipe.mutable_model()->clear_experts();
  recipe.mutable_model()->mutable_schedule()->clear_attention_layer_offset();
  EXPECT_THAT(
      Lines(recipe, 1),
      ElementsAre("recipe model.schedule.attention_layer_offset is required",
                  "recipe model.experts is required by model.schedule.expert_layer_period"));
  recipe = Parsed(kLlama);
  recipe.mutable_model()->mutable_attention()->clear_rotary_embedding();
  EXPECT_THAT(
      Lines(recipe, 1),
      ElementsAre("recipe model.attention.rotary_embedding is required by model.family = LLAMA"));
}

TEST(RecipeValidationTest, ValuesSetByCodeAreCheckedToo) {
  Recipe recipe = Parsed(kHybrid);
  recipe.mutable_model()->mutable_experts()->set_z_loss_coefficient(
      std::numeric_limits<double>::infinity());
  recipe.mutable_trainer()->set_device(static_cast<recipe::v1::Trainer::Device>(7));
  EXPECT_THAT(Lines(recipe, 1),
              ElementsAre("recipe model.experts.z_loss_coefficient = inf is not a finite number",
                          "recipe trainer.device = 7 is not one of AUTO, CPU, CUDA"));
}

TEST(RecipeValidationTest, ReportsEveryProblemAtOnceOneALine) {
  Recipe recipe = Parsed(kHybrid);
  for (const char* assignment : {"model.attention.heads=7", "model.experts.experts_per_token=9",
                                 "stages.0.tokens_per_step=100", "optim.adamw.beta1=2"}) {
    ASSERT_OK(ApplyOverride(assignment, recipe));
  }
  EXPECT_THAT(
      ValidateRecipe(recipe, 1),
      StatusIs(absl::StatusCode::kInvalidArgument,
               "recipe model.attention.heads = 7 does not divide model.model_dim = 256\n"
               "recipe model.attention.kv_heads = 2 does not divide model.attention.heads = 7\n"
               "recipe model.experts.experts_per_token = 9 must be at most "
               "model.experts.experts = 4\n"
               "recipe optim.adamw.beta1 = 2 must be at least 0 and less than 1\n"
               "recipe stages.0.tokens_per_step = 100 is not a multiple of "
               "rows_per_microbatch x row_tokens = 128"));
}

TEST(RecipeValidationTest, ExplicitHeadDimNeedNotDivideTheWidth) {
  Recipe recipe = Parsed(kHybrid);
  for (const char* assignment :
       {"model.attention.heads=6", "model.attention.head_dim=40", "model.attention.kv_heads=3"}) {
    ASSERT_OK(ApplyOverride(assignment, recipe));
  }
  EXPECT_THAT(Lines(recipe, 1), IsEmpty());
}

TEST(RecipeValidationTest, AMeshThatFitsIsAccepted) {
  Recipe recipe = Parsed(kHybrid);
  for (const char* assignment :
       {"parallel.tensor=2", "parallel.expert=2", "parallel.context=2", "parallel.pipeline=2"}) {
    ASSERT_OK(ApplyOverride(assignment, recipe));
  }
  EXPECT_THAT(Lines(recipe, 16), IsEmpty());
}

TEST(RecipeValidationTest, AnyNumberOfStagesUpToTheBlocksIsAccepted) {
  for (const auto& [stages, chunks] : {std::pair(2, 1), {3, 1}, {8, 1}, {2, 4}, {3, 2}, {4, 2}}) {
    Recipe recipe = Parsed(kHybrid);
    recipe.mutable_parallel()->set_pipeline(stages);
    recipe.mutable_parallel()->set_pipeline_chunks(chunks);
    EXPECT_THAT(Lines(recipe, stages), IsEmpty()) << stages << " x " << chunks;
    EXPECT_THAT(Lines(recipe, kAnyWorldSize), IsEmpty()) << stages << " x " << chunks;
  }
}

TEST(RecipeValidationTest, EveryProblemOfThePipelineIsReportedAtOnce) {
  Recipe recipe = Parsed(kHybrid);
  for (const char* assignment : {"model.tied_embeddings=true", "parallel.pipeline=4",
                                 "parallel.pipeline_chunks=3", "parallel.tensor=4"}) {
    ASSERT_OK(ApplyOverride(assignment, recipe));
  }
  EXPECT_THAT(
      Lines(recipe, 6),
      ElementsAre("recipe parallel.tensor = 4 does not divide model.attention.kv_heads = 2",
                  "recipe model.tied_embeddings = true is not built for parallel.pipeline = 4; "
                  "untie them or use one stage",
                  "recipe parallel.pipeline_chunks = 3 with parallel.pipeline = 4 is more parts "
                  "than the 8 blocks of model.layers = 4",
                  "recipe parallel = pipeline 4 x replicate 1 x shard unset x context 1 x tensor 4 "
                  "does not make a world of 6 ranks; start a multiple of 16 or change an axis"));
}

TEST(RecipeValidationTest, AWorldOfAnotherSizeHidesNoOtherProblemOfTheMesh) {
  Recipe recipe = Parsed(kHybrid);
  for (const char* assignment : {"parallel.shard=3", "parallel.expert=2"}) {
    ASSERT_OK(ApplyOverride(assignment, recipe));
  }
  EXPECT_THAT(
      Lines(recipe, 8),
      ElementsAre("recipe parallel = pipeline 1 x replicate 1 x shard 3 x context 1 x tensor 1 "
                  "does not make a world of 8 ranks; start 3 or change an axis",
                  "recipe parallel.expert = 2 does not divide parallel.shard x parallel.context = "
                  "3",
                  "recipe stages.0.tokens_per_step = 512 makes 4 microbatches, not a multiple of "
                  "the data-parallel size 3",
                  "recipe stages.1.tokens_per_step = 512 makes 2 microbatches, not a multiple of "
                  "the data-parallel size 3"));
}

TEST(RecipeValidationTest, AModelAloneIsEnoughWhereNothingIsTrained) {
  Recipe recipe = Parsed(kHybrid);
  recipe.clear_data();
  recipe.clear_stages();
  EXPECT_OK(ValidateRecipe(recipe, 1, RecipeUse::kModelOnly));
  EXPECT_THAT(ValidateRecipe(recipe, 1),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("recipe data.path")));
  ASSERT_OK(ApplyOverride("model.attention.heads=7", recipe));
  EXPECT_THAT(ValidateRecipe(recipe, 1, RecipeUse::kModelOnly),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("heads = 7")));
}

}  // namespace
}  // namespace plait
