#include "recipes/hugging_face_config.h"

#include <nlohmann/json.hpp>

#include "base/random.h"
#include "recipes/config_fields.h"
#include "recipes/layer_pattern.h"
#include "recipes/parameter_count.h"
#include "recipes/recipe_defaults.h"
#include "recipes/recipe_loader.h"
#include "tests/support/fuzzing.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::ordered_json;
using recipe::v1::Model;

// As published, with the keys of their time.
constexpr char kJambaV01[] = R"({
  "architectures": ["JambaForCausalLM"], "attention_dropout": 0.0,
  "attn_layer_offset": 4, "attn_layer_period": 8,
  "auto_map": {"AutoConfig": "configuration_jamba.JambaConfig"},
  "bos_token_id": 1, "calc_logits_for_entire_prompt": false, "eos_token_id": 2,
  "expert_layer_offset": 1, "expert_layer_period": 2, "hidden_act": "silu", "hidden_size": 4096,
  "initializer_range": 0.02, "intermediate_size": 14336, "mamba_conv_bias": true,
  "mamba_d_conv": 4, "mamba_d_state": 16, "mamba_dt_rank": 256, "mamba_expand": 2,
  "mamba_inner_layernorms": true, "mamba_proj_bias": false, "max_position_embeddings": 262144,
  "model_type": "jamba", "n_ctx": 262144, "num_attention_heads": 32, "num_experts": 16,
  "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
  "output_router_logits": false, "pad_token_id": 0, "rms_norm_eps": 1e-06,
  "router_aux_loss_coef": 0.001, "sliding_window": null, "tie_word_embeddings": false,
  "torch_dtype": "bfloat16", "transformers_version": "4.40.0.dev0", "use_cache": true,
  "use_mamba_kernels": true, "vocab_size": 65536
})";

constexpr char kJambaMini[] = R"({
  "architectures": ["JambaForCausalLM"], "attention_dropout": 0.0,
  "attn_layer_offset": 4, "attn_layer_period": 8, "bos_token_id": 1, "eos_token_id": [2, 518],
  "expert_layer_offset": 1, "expert_layer_period": 2, "hidden_act": "silu", "hidden_size": 4096,
  "initializer_range": 0.02, "intermediate_size": 14336, "mamba_conv_bias": true,
  "mamba_d_conv": 4, "mamba_d_state": 16, "mamba_dt_rank": 256, "mamba_expand": 2,
  "mamba_proj_bias": false, "max_position_embeddings": 262144, "model_type": "jamba",
  "num_attention_heads": 32, "num_experts": 16, "num_experts_per_tok": 2,
  "num_hidden_layers": 32, "num_key_value_heads": 8, "num_logits_to_keep": 1,
  "output_router_logits": false, "pad_token_id": 0, "rms_norm_eps": 1e-06,
  "router_aux_loss_coef": 0.001, "sliding_window": null, "tie_word_embeddings": false,
  "torch_dtype": "bfloat16", "transformers_version": "4.42.4", "use_cache": true,
  "use_mamba_kernels": true, "vocab_size": 65536
})";

constexpr char kLlama7b[] = R"({
  "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
  "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
  "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama",
  "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
  "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,
  "tie_word_embeddings": false, "torch_dtype": "float16", "transformers_version": "4.31.0",
  "use_cache": true, "vocab_size": 32000
})";

// `text` with some fields replaced, added, or removed where the change has null for them.
std::string With(const std::string& text, const std::string& changes) {
  Json json = Json::parse(text);
  json.merge_patch(Json::parse(changes));
  return json.dump();
}

std::string JambaLarge() {
  return With(kJambaMini, R"({"hidden_size": 8192, "intermediate_size": 24576,
      "num_hidden_layers": 72, "num_attention_heads": 64, "mamba_dt_rank": 512})");
}

std::string Llama70b() {
  return With(kLlama7b, R"({"hidden_size": 8192, "intermediate_size": 28672,
      "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8})");
}

Model Read(const std::string& text) {
  std::vector<std::string> warnings;
  const auto model = ModelFromHuggingFaceConfig(text, "config.json", &warnings);
  EXPECT_OK(model);
  EXPECT_THAT(warnings, IsEmpty());
  return model.value_or(Model());
}

std::string Written(const Model& model, const HuggingFaceConfigOptions& options = {}) {
  const auto text = HuggingFaceConfigText(model, options);
  EXPECT_OK(text);
  return text.value_or("{}");
}

Model LibraryModel(const std::string& name) {
  const auto recipe = LoadRecipe("recipes/library/" + name + ".textproto");
  EXPECT_OK(recipe);
  return recipe.ok() ? ResolvedModel(recipe->model()) : Model();
}

TEST(HuggingFaceConfigTest, PublishedModelsHaveTheirNumberOfParameters) {
  const std::pair<std::string, int64_t> published[] = {{kJambaV01, 51'570'323'328},
                                                       {kJambaMini, 51'570'323'328},
                                                       {JambaLarge(), 398'555'145'696},
                                                       {kLlama7b, 6'738'415'616},
                                                       {Llama70b(), 68'976'648'192}};
  for (const auto& [text, parameters] : published) {
    ASSERT_OK_AND_ASSIGN(const ParameterCount count, CountParameters(Read(text)));
    EXPECT_EQ(count.total, parameters);
  }
  ASSERT_OK_AND_ASSIGN(const ParameterCount mini, CountParameters(Read(kJambaMini)));
  EXPECT_EQ(mini.active_per_token, 12'110'311'296);
  EXPECT_EQ(mini.in_experts, 45'097'156'608);
}

TEST(HuggingFaceConfigTest, PublishedModelsAreTheLibrarys) {
  const auto equals = [](const std::string& text, const std::string& name) {
    Model library = LibraryModel(name);
    library.clear_activation_loss();  // the training's business
    EXPECT_EQ(Read(text).DebugString(), ResolvedModel(library).DebugString());
  };
  equals(kJambaMini, "jamba_1_5_mini");
  equals(JambaLarge(), "jamba_1_5_large");
  equals(kLlama7b, "llama_2_7b");
  equals(Llama70b(), "llama_2_70b");
}

TEST(HuggingFaceConfigTest, AbsentFieldsHaveTheClassDefaults) {
  EXPECT_EQ(Read(R"({"model_type": "jamba"})").DebugString(), Read(kJambaMini).DebugString());
  Model llama = Read(R"({"model_type": "llama"})");
  EXPECT_EQ(llama.rms_norm_epsilon(), 1e-6);
  llama.set_rms_norm_epsilon(1e-5);
  EXPECT_EQ(llama.DebugString(), Read(kLlama7b).DebugString());
}

TEST(HuggingFaceConfigTest, EveryFieldOfJambaIsRead) {
  const Model model = Read(R"({"model_type": "jamba", "vocab_size": 100, "hidden_size": 48,
      "intermediate_size": 40, "num_hidden_layers": 5, "num_attention_heads": 6,
      "num_key_value_heads": 3, "attn_layer_period": 3, "attn_layer_offset": 1,
      "expert_layer_period": 4, "expert_layer_offset": 3, "num_experts": 6,
      "num_experts_per_tok": 3, "mamba_d_state": 7, "mamba_d_conv": 3, "mamba_expand": 3,
      "mamba_dt_rank": 5, "mamba_conv_bias": false, "mamba_proj_bias": true,
      "rms_norm_eps": 1e-4, "initializer_range": 0.1, "router_aux_loss_coef": 0.5,
      "tie_word_embeddings": true})");
  const char* const expected = R"(
    family: JAMBA vocabulary: 100 model_dim: 48 hidden_dim: 40 layers: 5
    schedule { attention_layer_period: 3 attention_layer_offset: 1
               expert_layer_period: 4 expert_layer_offset: 3 }
    attention { heads: 6 kv_heads: 3 head_dim: 8 }
    mamba { mixer: MAMBA_1 state_dim: 7 conv_width: 3 expand: 3 dt_rank: 5 conv_bias: false
            projection_bias: true dt_initialization: MAMBA }
    experts { experts: 6 experts_per_token: 3 balance_loss_coefficient: 0.5
              z_loss_coefficient: 0 }
    rms_norm_epsilon: 1e-4 tied_embeddings: true initializer_range: 0.1
    activation_loss { coefficient: 0 sites: BLOCK_OUTPUT })";
  ASSERT_OK_AND_ASSIGN(const recipe::v1::Recipe recipe,
                       ParseRecipe(std::string("model {") + expected + "}", "expected"));
  EXPECT_EQ(model.DebugString(), recipe.model().DebugString());
}

TEST(HuggingFaceConfigTest, SpellingsThatMeanTheSameGiveTheSame) {
  const std::string jamba = Read(kJambaMini).DebugString();
  for (const char* change :
       {R"({"mamba_dt_rank": "auto"})", R"({"num_experts": null, "num_local_experts": 16})",
        R"({"num_local_experts": 16})", R"({"head_dim": 128})", R"({"hidden_act": "swish"})",
        R"({"torch_dtype": null, "dtype": "float32"})", R"({"eos_token_id": 2})",
        R"({"output_router_logits": true, "use_cache": false})"}) {
    EXPECT_EQ(Read(With(kJambaMini, change)).DebugString(), jamba) << change;
  }
  const std::string llama = Read(kLlama7b).DebugString();
  for (const char* change :
       {R"({"num_key_value_heads": null})", R"({"head_dim": 128})", R"({"rope_theta": 10000})",
        R"({"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}})",
        R"({"rope_scaling": {"type": "default"}, "rope_theta": 1e4})",
        R"({"attention_bias": false, "mlp_bias": false, "attention_dropout": 0.0})",
        R"({"pad_token_id": -1})"}) {
    EXPECT_EQ(Read(With(kLlama7b, change)).DebugString(), llama) << change;
  }
  // merge_patch removes what is null: these are null in the file.
  const std::string head = R"({"model_type": "llama", "rms_norm_eps": 1e-5, "layer_types": null, )";
  EXPECT_EQ(Read(head + R"("num_key_value_heads": null, "rope_scaling": null, "head_dim": null})")
                .DebugString(),
            llama);
  EXPECT_EQ(Read(R"({"model_type": "jamba", "num_key_value_heads": null})").attention().kv_heads(),
            32);
}

TEST(HuggingFaceConfigTest, RotaryThetaIsReadFromEitherPlace) {
  for (const char* change :
       {R"({"rope_theta": 500000})", R"({"rope_parameters": {"rope_theta": 500000.0}})",
        R"({"rope_theta": 5e5, "rope_parameters": {"rope_theta": 500000, "rope_type": "default"}})",
        R"({"rope_scaling": {"rope_type": "default", "rope_theta": 500000}})"}) {
    EXPECT_EQ(Read(With(kLlama7b, change)).attention().rotary_embedding().theta(), 5e5) << change;
  }
}

TEST(HuggingFaceConfigTest, OneExpertOrNoLayerForThemMeansDenseLayers) {
  for (const char* change :
       {R"({"num_experts": 1})", R"({"num_experts": null, "num_local_experts": 1})",
        R"({"num_hidden_layers": 1})",
        R"({"expert_layer_period": 40, "expert_layer_offset": 39})"}) {
    const Model model = Read(With(kJambaMini, change));
    EXPECT_FALSE(model.has_experts()) << change;
    ASSERT_OK_AND_ASSIGN(const auto layers, LayersOf(model));
    for (const LayerKind& layer : layers) EXPECT_EQ(layer.feed_forward, FeedForwardKind::kDense);
  }
}

TEST(HuggingFaceConfigTest, AttentionEverywhereHasNoMamba) {
  const Model model = Read(With(kJambaMini, R"({"attn_layer_period": 1, "attn_layer_offset": 0})"));
  EXPECT_FALSE(model.has_mamba());
  ASSERT_OK_AND_ASSIGN(const ParameterCount count, CountParameters(model));
  EXPECT_EQ(count.attention_layers, 32);
}

struct Refused {
  const char* base;
  const char* change;
  const char* message;
};

TEST(HuggingFaceConfigTest, WhatChangesTheMathematicsIsRefusedByName) {
  const Refused cases[] = {
      {kJambaMini, R"({"model_type": "mamba2"})",
       "config.json: model_type = \"mamba2\" is not supported; jamba and llama are"},
      {kJambaMini, R"({"model_type": null})", "model_type = absent is not supported"},
      {kJambaMini, R"({"architectures": ["JambaForSequenceClassification"]})",
       "architectures = [\"JambaForSequenceClassification\"] is not supported; only "
       "JambaForCausalLM is"},
      {kJambaMini, R"({"hidden_act": "gelu"})",
       "config.json: hidden_act = \"gelu\" is not supported; only silu is"},
      {kJambaMini, R"({"attention_dropout": 0.1})",
       "attention_dropout = 0.1 is not supported; set it to 0 and train without"},
      {kJambaMini, R"({"sliding_window": 4096})", "sliding_window = 4096 is not supported"},
      {kJambaMini, R"({"mamba_inner_layernorms": false})", "mamba_inner_layernorms = false is not"},
      {kJambaMini, R"({"head_dim": 64})", "head_dim = 64 is not supported"},
      {kJambaMini, R"({"quantization_config": {"bits": 4}})",
       "quantization_config = {\"bits\":4} is not supported; convert the unquantised weights"},
      {kJambaMini, R"({"num_local_experts": 8})",
       "num_local_experts = 8 contradicts num_experts = 16; remove one"},
      {kJambaMini, R"({"layers_block_type": ["mamba"]})", "layers_block_type = [\"mamba\"] contra"},
      {kJambaMini, R"({"attn_layer_offset": 8})",
       "attn_layer_offset = 8 must be less than attn_layer_period = 8"},
      {kJambaMini, R"({"expert_layer_offset": 2})", "expert_layer_offset = 2 must be less than"},
      {kJambaMini, R"({"num_experts_per_tok": 17})", "must be at most num_experts = 16"},
      {kJambaMini, R"({"num_attention_heads": 24})", "num_attention_heads = 24 does not divide"},
      {kJambaMini, R"({"num_key_value_heads": 5})", "num_key_value_heads = 5 does not divide"},
      {kJambaMini, R"({"num_experts": 0})", "num_experts = 0 is not an integer from 1 to"},
      {kJambaMini, R"({"mamba_dt_rank": "full"})", "mamba_dt_rank = \"full\" is not an integer"},
      {kJambaMini, R"({"mamba_d_state": 5000})", "model.mamba.state_dim = 5000"},
      {kJambaMini, R"({"hidden_size": "4096"})", "hidden_size = \"4096\" is not an integer from 1"},
      {kJambaMini, R"({"hidden_size": 4096.5})", "hidden_size = 4096.5 is not an integer"},
      {kJambaMini, R"({"rms_norm_eps": 0})", "model.rms_norm_epsilon = 0 must be greater than 0"},
      {kJambaMini, R"({"rms_norm_eps": "1e-6"})", "rms_norm_eps = \"1e-6\" is not a number"},
      {kJambaMini, R"({"tie_word_embeddings": 1})", "tie_word_embeddings = 1 is not true or false"},
      {kJambaMini, R"({"hidden_size": 9223372036854775807})", "hidden_size = 9223372036854775807"},
      {kJambaMini, R"({"num_hidden_layers": 2000000000})", "model.layers = 2000000000"},
      {kLlama7b, R"({"architectures": ["LlamaForSequenceClassification"]})", "architectures = ["},
      {kLlama7b, R"({"architectures": "LlamaForCausalLM"})", "is not a list of strings"},
      {kLlama7b, R"({"attention_bias": true})", "attention_bias = true is not supported"},
      {kLlama7b, R"({"mlp_bias": true})", "mlp_bias = true is not supported"},
      {kLlama7b, R"({"head_dim": 127})", "head_dim = 127 makes heads of odd width"},
      {kLlama7b, R"({"partial_rotary_factor": 0.5})", "partial_rotary_factor = 0.5 is not"},
      {kLlama7b, R"({"rope_scaling": {"type": "linear", "factor": 2.0}})",
       "config.json: rope_scaling: type = \"linear\" is not supported; only default is"},
      {kLlama7b, R"({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}})",
       "config.json: rope_parameters: rope_type = \"llama3\" is not supported; only default is"},
      {kLlama7b, R"({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}})",
       "has full_attention = "},
      {kLlama7b, R"({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 2e4}})",
       "rope_parameters: rope_theta = 20000.0 contradicts the other rope_theta, 10000"},
      {kLlama7b, R"({"rope_theta": -1})", "model.attention.rotary_embedding.theta = -1"},
      {kLlama7b, R"({"rope_parameters": 10000})", "rope_parameters = 10000 is not an object"},
  };
  for (const Refused& refused : cases) {
    EXPECT_THAT(ModelFromHuggingFaceConfig(With(refused.base, refused.change), "config.json"),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(refused.message)))
        << refused.change;
  }
}

TEST(HuggingFaceConfigTest, FieldsThatNobodyKnowsAreNamed) {
  std::vector<std::string> warnings;
  ASSERT_OK(ModelFromHuggingFaceConfig(
      With(kJambaMini, R"({"unsloth_fixed": true, "router_jitter_noise": 0.1})"), "config.json",
      &warnings));
  EXPECT_THAT(warnings,
              ElementsAre("config.json: unsloth_fixed = true is no field of this model's "
                          "configuration: not read",
                          "config.json: router_jitter_noise = 0.1 is no field of this model's "
                          "configuration: not read"));
}

TEST(HuggingFaceConfigTest, TextThatIsNoStrictJsonIsRefused) {
  const auto message = [](const std::string& text) {
    return std::string(ModelFromHuggingFaceConfig(text, "config.json").status().message());
  };
  EXPECT_THAT(message(""), HasSubstr("config.json: is not JSON"));
  EXPECT_THAT(message("{\"model_type\": \"jamba\""), HasSubstr("is not JSON"));
  EXPECT_THAT(message("{\"model_type\": \"jamba\",}"), HasSubstr("is not JSON"));
  EXPECT_THAT(message("{\"model_type\": \"\xff\"}"), HasSubstr("is not JSON"));
  EXPECT_THAT(message("{\"rms_norm_eps\": NaN}"), HasSubstr("is not JSON"));
  EXPECT_THAT(message("[1]"), HasSubstr("expected an object, found [1]"));
  EXPECT_THAT(message(R"({"model_type": "jamba", "hidden_size": 64, "hidden_size": 32})"),
              HasSubstr("config.json: has hidden_size twice; remove one"));
  EXPECT_THAT(message(R"({"model_type": "jamba", "x": [{"a\n": 1, "a\n": 1}]})"),
              HasSubstr("has a\\n twice"));
  EXPECT_THAT(message(std::string(kMaxConfigBytes + 1, ' ')), HasSubstr("expected at most"));
}

TEST(HuggingFaceConfigTest, NestingIsBounded) {
  const auto nested = [](int depth) {
    return R"({"model_type": "jamba", "x": )" + std::string(static_cast<size_t>(depth), '[') +
           std::string(static_cast<size_t>(depth), ']') + "}";
  };
  EXPECT_OK(ModelFromHuggingFaceConfig(nested(kMaxConfigNesting - 2), "config.json"));
  EXPECT_THAT(ModelFromHuggingFaceConfig(nested(kMaxConfigNesting + 1), "config.json"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is not JSON")));
  EXPECT_THAT(ModelFromHuggingFaceConfig(nested(400000), "config.json"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is not JSON")));
}

TEST(HuggingFaceConfigTest, ThereAndBackGivesTheSameModel) {
  for (const std::string& text :
       {std::string(kJambaV01), std::string(kJambaMini), JambaLarge(), std::string(kLlama7b),
        Llama70b(), With(kJambaMini, R"({"num_experts": 1, "tie_word_embeddings": true})"),
        With(kJambaMini, R"({"attn_layer_period": 1, "attn_layer_offset": 0})"),
        With(kLlama7b, R"({"head_dim": 64, "rope_theta": 3e5})")}) {
    const Model model = Read(text);
    for (const std::string& source : {std::string(), text}) {
      const std::string written = Written(model, {.source = source});
      EXPECT_EQ(Read(written).attention().DebugString(), model.attention().DebugString());
      const Model back = Read(written);
      ASSERT_OK_AND_ASSIGN(const auto layers, LayersOf(model));
      ASSERT_OK_AND_ASSIGN(const auto layers_back, LayersOf(back));
      EXPECT_EQ(layers_back, layers);
      // Without the source the layers may be said by another period.
      if (source.empty()) continue;
      EXPECT_EQ(back.DebugString(), model.DebugString());
    }
  }
}

TEST(HuggingFaceConfigTest, BothSpellingsAreWritten) {
  const Json jamba =
      Json::parse(Written(Read(kJambaMini), {.dtype = "float32", .source = kJambaMini}));
  EXPECT_EQ(jamba["dtype"], "float32");
  EXPECT_EQ(jamba["torch_dtype"], "float32");
  EXPECT_FALSE(jamba.contains("rope_theta"));
  const Json llama =
      Json::parse(Written(Read(With(kLlama7b, R"({"rope_theta": 5e5})")), {.source = kLlama7b}));
  EXPECT_EQ(llama["rope_theta"], 5e5);
  EXPECT_EQ(llama["rope_parameters"],
            Json::parse(R"({"rope_type": "default", "rope_theta": 500000.0})"));
  EXPECT_EQ(llama["rope_scaling"], nullptr);
  EXPECT_EQ(llama["dtype"], "float16");  // the source's, where none is asked for
  EXPECT_EQ(llama["torch_dtype"], "float16");
}

TEST(HuggingFaceConfigTest, WhatTheSourceSaysBesideTheModelStays) {
  const std::string source = With(
      kJambaV01,
      R"({"max_position_embeddings": 777, "custom": {"a": [1, 2.5, "x", 1000000000000000019884624838656]},
                          "output_router_logits": true})");
  HuggingFaceConfigOptions options;
  options.token_ids = {1, {2, 518}, 0};
  options.source = source;
  const Json json = Json::parse(Written(LibraryModel("jamba_1_5_mini"), options));
  EXPECT_EQ(json["max_position_embeddings"], 777);
  EXPECT_EQ(json["custom"], Json::parse(R"({"a": [1, 2.5, "x", 1e30]})"));
  EXPECT_EQ(json["output_router_logits"], true);
  EXPECT_EQ(json["eos_token_id"], Json::array({2, 518}));
  EXPECT_EQ(json["attn_layer_period"], 8);
  EXPECT_EQ(json.begin().key(), "architectures");
}

TEST(HuggingFaceConfigTest, ARecipesOwnModelGetsACompleteConfig) {
  HuggingFaceConfigOptions options;
  options.dtype = "bfloat16";
  options.token_ids = {1, {2}, std::nullopt};
  const Json json = Json::parse(Written(LibraryModel("jamba_1_5_mini"), options));
  const Json published = Json::parse(kJambaMini);
  for (const auto& item : published.items()) {
    if (item.key() == "sliding_window" || item.key() == "transformers_version" ||
        item.key() == "num_logits_to_keep" || item.key() == "use_mamba_kernels") {
      continue;
    }
    EXPECT_TRUE(json.contains(item.key())) << item.key();
  }
  EXPECT_EQ(json["pad_token_id"], nullptr);
  EXPECT_EQ(json["eos_token_id"], 2);
  EXPECT_EQ(json["max_position_embeddings"], 262144);
  EXPECT_EQ(Json::parse(Written(LibraryModel("llama_2_7b"),
                                {.max_position_embeddings = 4096}))["max_position_embeddings"],
            4096);
}

// The model of a recipe text of the tiny kind.
Model Tiny(const std::string& layers) {
  const auto recipe = ParseRecipe(
      "model { family: JAMBA vocabulary: 30 model_dim: 16 "
      "hidden_dim: 24 layers: 4 attention { heads: 2 kv_heads: 1 } " +
          layers + " }",
      "tiny");
  EXPECT_OK(recipe);
  return recipe.ok() ? ResolvedModel(recipe->model()) : Model();
}

TEST(HuggingFaceConfigTest, PatternsThatArePeriodsAreWrittenAsSuch) {
  const std::string experts = " experts { experts: 4 balance_loss_coefficient: 0.25 }";
  for (const std::string& layers :
       {"pattern: \"MdMeAdMe\"" + experts, "pattern: \"4*Me\"" + experts,
        "pattern: \"AeAdAeAd\"" + experts, std::string("pattern: \"4*Md\""),
        std::string("pattern: \"MdMdMdAd\"")}) {
    const Model model = Tiny(layers);
    const Model back = Read(Written(model));
    ASSERT_OK_AND_ASSIGN(const auto expected, LayersOf(model));
    ASSERT_OK_AND_ASSIGN(const auto found, LayersOf(back));
    EXPECT_EQ(found, expected) << layers;
    EXPECT_EQ(back.experts().DebugString(), model.experts().DebugString());
  }
}

TEST(HuggingFaceConfigTest, WhatNoConfigCanSayIsRefused) {
  const auto refused = [](const Model& model, const std::string& message) {
    EXPECT_THAT(HuggingFaceConfigText(model, {}),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(message)));
  };
  refused(Tiny("pattern: \"AdAdMdAd\""),
          "recipe model: its attention layers do not come at one period and offset");
  refused(Tiny("pattern: \"MeMeMdMd\" experts { experts: 4 }"), "its expert layers do not come");
  Model model = Tiny("pattern: \"MdAdMdAd\"");
  model.mutable_attention()->set_head_dim(4);
  refused(model, "recipe model.attention.head_dim = 4");
  model.mutable_attention()->set_head_dim(8);
  model.mutable_attention()->mutable_rotary_embedding();
  refused(model, "recipe model.attention.rotary_embedding");
  model = LibraryModel("llama_2_7b");
  model.mutable_attention()->set_heads(24);
  model.mutable_attention()->set_kv_heads(24);
  refused(model, "recipe model.attention.heads = 24 does not divide");
  EXPECT_THAT(HuggingFaceConfigText(LibraryModel("llama_2_7b"), {.source = kJambaMini}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is of JAMBA")));
  EXPECT_THAT(HuggingFaceConfigText(Model(), {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("recipe model.family")));
  EXPECT_THAT(HuggingFaceConfigText(LibraryModel("llama_2_7b"), {.dtype = "int8"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("dtype 'int8'")));
}

TEST(HuggingFaceConfigTest, TokenIdsComeFromEitherFile) {
  const auto ids = [](const std::string& config, const std::string& generation) {
    const auto read = TokenIdsFromHuggingFace(config, generation, "config.json");
    EXPECT_OK(read);
    return read.value_or(HuggingFaceTokenIds());
  };
  using Ids = HuggingFaceTokenIds;
  EXPECT_EQ(ids(kJambaMini, ""), (Ids{1, {2, 518}, 0}));
  EXPECT_EQ(ids(R"({"model_type": "jamba"})", ""), (Ids{1, {2}, 0}));
  EXPECT_EQ(ids(R"({"model_type": "llama"})", ""), (Ids{1, {2}, std::nullopt}));
  EXPECT_EQ(ids(kLlama7b, R"({"bos_token_id": 7, "eos_token_id": [8, 9], "pad_token_id": -1,
                              "temperature": 0.6})"),
            (Ids{7, {8, 9}, std::nullopt}));
  EXPECT_EQ(ids(kLlama7b, R"({"bos_token_id": null, "eos_token_id": null, "pad_token_id": 5})"),
            (Ids{std::nullopt, {}, 5}));
  EXPECT_THAT(TokenIdsFromHuggingFace(kLlama7b, R"({"eos_token_id": "</s>"})", "folder"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("eos_token_id = \"</s>\"")));
}

TEST(HuggingFaceConfigTest, GenerationConfigKeepsWhatItHad) {
  ASSERT_OK_AND_ASSIGN(
      const std::string text,
      HuggingFaceGenerationText({1, {2, 518}, 0}, R"({"temperature": 0.4, "eos_token_id": 2})"));
  EXPECT_EQ(Json::parse(text), Json::parse(R"({"temperature": 0.4, "eos_token_id": [2, 518],
                                               "bos_token_id": 1, "pad_token_id": 0})"));
  ASSERT_OK_AND_ASSIGN(const auto ids, TokenIdsFromHuggingFace(kLlama7b, text, "folder"));
  EXPECT_EQ(ids, (HuggingFaceTokenIds{1, {2, 518}, 0}));
}

// Published texts with bytes, numbers and whole pieces changed: read or refused, and what is read
// can be written.
TEST(HuggingFaceConfigTest, AnyBytesAreReadOrRefused) {
  FuzzedInputs inputs(3000);
  const std::string seeds[] = {kJambaV01, kJambaMini, kLlama7b,
                               With(kLlama7b, R"({"rope_parameters": {"rope_theta": 1e4}})")};
  const char* const pieces[] = {
      "{",  "}",     "[",    "]",       "\"", ":",      ",",  "null",
      "-1", "1e308", "true", "\\u0000", "0",  "1e-400", "\\", "18446744073709551616"};
  const RandomKey key(11, RandomPurpose::kTest, "config");
  int64_t read = 0;
  for (int64_t i = 0; i < inputs.count() && !HasFailure(); ++i) {
    std::string text = seeds[i % 4];
    const auto words = key.Words(static_cast<uint64_t>(i));
    for (uint32_t edit = 0; edit <= words[0] % 4; ++edit) {
      const auto how = key.Words(static_cast<uint64_t>(inputs.count() + 8 * i + edit));
      const size_t at = how[0] % (text.size() + 1);
      switch (how[1] % 5) {
        case 0:
          if (at < text.size()) text[at] = static_cast<char>(how[2]);
          break;
        case 1:
          text.insert(at, pieces[how[2] % 16]);
          break;
        case 2:
          text.erase(at, how[2] % 20);
          break;
        case 3:
          text.insert(at, text.substr(how[2] % (text.size() + 1), how[3] % 200));
          break;
        default:
          if (at < text.size()) text[at] = static_cast<char>('0' + how[2] % 10);
          break;
      }
      if (text.empty()) break;
    }
    inputs.Time(i, [&] {
      for (const auto& ids : {TokenIdsFromHuggingFace(text, "", "config.json"),
                              TokenIdsFromHuggingFace(kLlama7b, text, "config.json")}) {
        EXPECT_TRUE(ids.ok() || absl::IsInvalidArgument(ids.status())) << text;
        EXPECT_EQ(ids.status().message().find('\n'), absl::string_view::npos) << text;
      }
      std::vector<std::string> warnings;
      const auto model = ModelFromHuggingFaceConfig(text, "config.json", &warnings);
      if (!model.ok()) {
        EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument) << text;
        EXPECT_EQ(model.status().message().find('\n'), absl::string_view::npos) << text;
        return;
      }
      if (++read % 16 != 0) return;
      const auto written = HuggingFaceConfigText(*model, {.source = text});
      EXPECT_TRUE(written.ok() || absl::IsFailedPrecondition(written.status()))
          << written.status() << text;
    });
  }
  EXPECT_GT(read, inputs.count() / 20);
  inputs.Finish();
}

}  // namespace
}  // namespace plait
