#include "recipes/parameter_count.h"

#include <algorithm>

#include "recipes/layer_pattern.h"
#include "recipes/recipe_loader.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

recipe::v1::Model LibraryModel(const std::string& name) {
  const auto recipe = LoadRecipe("recipes/library/" + name + ".textproto");
  EXPECT_OK(recipe);
  return recipe.ok() ? recipe->model() : recipe::v1::Model();
}

ParameterCount Count(const std::string& name) {
  const auto count = CountParameters(LibraryModel(name));
  EXPECT_OK(count);
  return count.value_or(ParameterCount());
}

// The numbers are the published ones (Jamba 1.5 Mini's is its checkpoint's size in bytes, halved).
TEST(ParameterCountTest, JambaMini) {
  const ParameterCount count = Count("jamba_1_5_mini");
  EXPECT_EQ(count.total, 51'570'323'328);
  EXPECT_EQ(count.total * 2, 103'140'646'656);
  EXPECT_EQ(count.in_experts, 45'097'156'608);
  EXPECT_EQ(count.active_per_token, 12'110'311'296);
  EXPECT_EQ(count.attention_layers, 4);
  EXPECT_EQ(count.mamba_layers, 28);
  EXPECT_EQ(count.expert_layers, 16);
  EXPECT_EQ(count.dense_layers, 16);
  EXPECT_EQ(count.kv_elements_per_token * 2, 16 * 1024);
}

TEST(ParameterCountTest, JambaLarge) {
  const ParameterCount count = Count("jamba_1_5_large");
  EXPECT_EQ(count.total, 398'555'145'696);
  EXPECT_EQ(count.total * 2, 797'110'291'392);
  EXPECT_EQ(count.in_experts, 347'892'350'976);
  EXPECT_EQ(count.active_per_token, 94'149'338'592);
  EXPECT_EQ(count.attention_layers, 9);
  EXPECT_EQ(count.mamba_layers, 63);
  EXPECT_EQ(count.expert_layers, 36);
  EXPECT_EQ(count.dense_layers, 36);
  EXPECT_EQ(count.kv_elements_per_token * 2, 36 * 1024);
}

TEST(ParameterCountTest, Llamas) {
  EXPECT_EQ(Count("llama_2_7b").total, 6'738'415'616);
  EXPECT_EQ(Count("llama_2_7b").active_per_token, 6'738'415'616);
  EXPECT_EQ(Count("llama_2_70b").total, 68'976'648'192);
}

TEST(ParameterCountTest, MatmulParametersLeaveOutLookUpNormsAndConvolution) {
  // 7B: everything but the embedding and 65 norms of 4096.
  EXPECT_EQ(Count("llama_2_7b").matmul_active_per_token,
            6'738'415'616 - 32000ll * 4096 - 65ll * 4096);
  // Mini: minus embedding, norms, and per Mamba layer convolution with bias, inner norms, dt bias,
  // A_log, D.
  EXPECT_EQ(Count("jamba_1_5_mini").matmul_active_per_token,
            12'110'311'296 - 65536ll * 4096 - 65ll * 4096 -
                28ll * (8192 * 4 + 8192 + 256 + 16 + 16 + 8192 + 8192 * 16 + 8192));
}

TEST(ParameterCountTest, TiedEmbeddingCountsOnceAndAsTheHead) {
  recipe::v1::Model model = LibraryModel("demo_pretrain");
  ASSERT_OK_AND_ASSIGN(const ParameterCount tied, CountParameters(model));
  model.set_tied_embeddings(false);
  ASSERT_OK_AND_ASSIGN(const ParameterCount untied, CountParameters(model));
  EXPECT_EQ(untied.total - tied.total, 4096 * 128);
  EXPECT_EQ(untied.matmul_active_per_token, tied.matmul_active_per_token);
}

TEST(ParameterCountTest, DemoIsSmall) {
  const ParameterCount count = Count("demo_pretrain");
  EXPECT_GT(count.active_per_token - 4096 * 128, 900'000);
  EXPECT_LT(count.active_per_token - 4096 * 128, 1'100'000);
}

TEST(ParameterCountTest, FlopsAreSixPerMatmulParameterAndHalfAttention) {
  ParameterCount count;
  count.matmul_active_per_token = 100;
  count.attention_layers = 2;
  count.attention_width = 8;
  // Full attention over 16 tokens: scores and values, 2 x 2 x 16 x 8, three times (forward and
  // backward), half of it.
  EXPECT_EQ(ModelFlopsPerToken(count, 16), 600.0 + 2 * (3 * 2 * 2 * 16 * 8 / 2));
}

TEST(ParameterCountTest, NamesAndShapesAreTheCheckpoints) {
  ASSERT_OK_AND_ASSIGN(const auto parameters, LogicalParameters(LibraryModel("jamba_1_5_mini")));
  const auto shape = [&](const std::string& name) -> std::string {
    const auto found = std::find_if(parameters.begin(), parameters.end(),
                                    [&](const LogicalParameter& p) { return p.name == name; });
    return found == parameters.end() ? "absent" : found->shape.ToString();
  };
  EXPECT_EQ(shape("model.embed_tokens.weight"), "[65536, 4096]");
  EXPECT_EQ(shape("model.final_layernorm.weight"), "[4096]");
  EXPECT_EQ(shape("lm_head.weight"), "[65536, 4096]");
  EXPECT_EQ(shape("model.layers.0.input_layernorm.weight"), "[4096]");
  EXPECT_EQ(shape("model.layers.0.pre_ff_layernorm.weight"), "[4096]");
  EXPECT_EQ(shape("model.layers.4.self_attn.q_proj.weight"), "[4096, 4096]");
  EXPECT_EQ(shape("model.layers.4.self_attn.k_proj.weight"), "[1024, 4096]");
  EXPECT_EQ(shape("model.layers.4.self_attn.v_proj.weight"), "[1024, 4096]");
  EXPECT_EQ(shape("model.layers.4.self_attn.o_proj.weight"), "[4096, 4096]");
  EXPECT_EQ(shape("model.layers.0.mamba.in_proj.weight"), "[16384, 4096]");
  EXPECT_EQ(shape("model.layers.0.mamba.conv1d.weight"), "[8192, 1, 4]");
  EXPECT_EQ(shape("model.layers.0.mamba.conv1d.bias"), "[8192]");
  EXPECT_EQ(shape("model.layers.0.mamba.x_proj.weight"), "[288, 8192]");
  EXPECT_EQ(shape("model.layers.0.mamba.dt_proj.weight"), "[8192, 256]");
  EXPECT_EQ(shape("model.layers.0.mamba.dt_proj.bias"), "[8192]");
  EXPECT_EQ(shape("model.layers.0.mamba.A_log"), "[8192, 16]");
  EXPECT_EQ(shape("model.layers.0.mamba.D"), "[8192]");
  EXPECT_EQ(shape("model.layers.0.mamba.dt_layernorm.weight"), "[256]");
  EXPECT_EQ(shape("model.layers.0.mamba.b_layernorm.weight"), "[16]");
  EXPECT_EQ(shape("model.layers.0.mamba.out_proj.weight"), "[4096, 8192]");
  EXPECT_EQ(shape("model.layers.0.mamba.in_proj.bias"), "absent");
  EXPECT_EQ(shape("model.layers.0.feed_forward.gate_proj.weight"), "[14336, 4096]");
  EXPECT_EQ(shape("model.layers.0.feed_forward.down_proj.weight"), "[4096, 14336]");
  EXPECT_EQ(shape("model.layers.1.feed_forward.router.weight"), "[16, 4096]");
  EXPECT_EQ(shape("model.layers.1.feed_forward.experts.gate_up_proj"), "[16, 28672, 4096]");
  EXPECT_EQ(shape("model.layers.1.feed_forward.experts.down_proj"), "[16, 4096, 14336]");
}

TEST(ParameterCountTest, LlamaHasItsOwnNames) {
  ASSERT_OK_AND_ASSIGN(const auto parameters, LogicalParameters(LibraryModel("llama_2_7b")));
  EXPECT_EQ(parameters.size(), 3u + 32 * 9);
  EXPECT_EQ(parameters[6].name, "model.layers.0.post_attention_layernorm.weight");
  EXPECT_EQ(parameters[7].name, "model.layers.0.mlp.gate_proj.weight");
  EXPECT_EQ(parameters[parameters.size() - 2].name, "model.norm.weight");
}

}  // namespace
}  // namespace plait
