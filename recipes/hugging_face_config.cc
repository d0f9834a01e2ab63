#include "recipes/hugging_face_config.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "recipes/config_fields.h"
#include "recipes/layer_pattern.h"
#include "recipes/recipe_defaults.h"
#include "recipes/recipe_validation.h"

namespace plait {
namespace {

using recipe::v1::Model;

// Fields of either family that say nothing about what the weights compute: how the model is run,
// what it returns, labels and leftovers of the base class.
constexpr const char* kIgnored[] = {"_attn_implementation",
                                    "_name_or_path",
                                    "attn_implementation",
                                    "auto_map",
                                    "bad_words_ids",
                                    "begin_suppress_tokens",
                                    "bos_token_id",
                                    "chunk_size_feed_forward",
                                    "decoder_start_token_id",
                                    "diversity_penalty",
                                    "do_sample",
                                    "dtype",
                                    "early_stopping",
                                    "encoder_no_repeat_ngram_size",
                                    "eos_token_id",
                                    "experts_implementation",
                                    "exponential_decay_length_penalty",
                                    "finetuning_task",
                                    "forced_bos_token_id",
                                    "forced_eos_token_id",
                                    "id2label",
                                    "is_decoder",
                                    "keys_to_ignore_at_inference",
                                    "label2id",
                                    "length_penalty",
                                    "max_length",
                                    "max_position_embeddings",
                                    "min_length",
                                    "no_repeat_ngram_size",
                                    "num_beam_groups",
                                    "num_beams",
                                    "num_return_sequences",
                                    "output_attentions",
                                    "output_hidden_states",
                                    "output_scores",
                                    "pad_token_id",
                                    "prefix",
                                    "problem_type",
                                    "remove_invalid_values",
                                    "repetition_penalty",
                                    "return_dict",
                                    "return_dict_in_generate",
                                    "sep_token_id",
                                    "suppress_tokens",
                                    "task_specific_params",
                                    "temperature",
                                    "tf_legacy_loss",
                                    "tie_encoder_decoder",
                                    "tokenizer_class",
                                    "top_k",
                                    "top_p",
                                    "torch_dtype",
                                    "torchscript",
                                    "transformers_version",
                                    "typical_p",
                                    "use_bfloat16",
                                    "use_cache"};

constexpr const char* kIgnoredOfJamba[] = {"calc_logits_for_entire_prompt",
                                           "n_ctx",
                                           "num_logits_to_keep",
                                           "output_router_logits",
                                           "use_associative_scan",
                                           "use_mamba_kernels",
                                           "use_mambapy"};

// pretraining_tp splits matrices of the same product.
constexpr const char* kIgnoredOfLlama[] = {"pretraining_tp"};

// What would change the mathematics of either family.
void RefuseUnsupported(ConfigFields& fields) {
  const std::string activation = fields.String("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    fields.Refuse("hidden_act", "is not supported; only silu is");
  }
  for (const char* bias : {"attention_bias", "mlp_bias"}) {
    fields.RefuseIfSet(bias, "is not supported: attention and feed-forward have no bias here");
  }
  fields.RefuseIfSet("attention_dropout", "is not supported; set it to 0 and train without");
  fields.RefuseIfSet("sliding_window", "is not supported: attention sees the whole text here");
  for (const char* quantization : {"quantization_config", "compression_config"}) {
    fields.RefuseIfSet(quantization, "is not supported; convert the unquantised weights");
  }
  for (const char* other : {"is_encoder_decoder", "add_cross_attention", "pruned_heads",
                            "cross_attention_hidden_size"}) {
    fields.RefuseIfSet(other, "is not supported: this plait builds decoders only");
  }
}

// model_type and architectures.
absl::StatusOr<Model::Family> FamilyOf(ConfigFields& fields) {
  const std::string type = fields.String("model_type", "");
  const bool is_jamba = type == "jamba";
  if (!is_jamba && type != "llama") {
    fields.Refuse("model_type", "is not supported; jamba and llama are");
  }
  const std::string architecture = is_jamba ? "JambaForCausalLM" : "LlamaForCausalLM";
  for (const std::string& found : fields.Strings("architectures")) {
    if (absl::EqualsIgnoreCase(found, architecture)) continue;
    fields.Refuse("architectures", absl::StrCat("is not supported; only ", architecture, " is"));
  }
  PLAIT_RETURN_IF_ERROR(fields.status());
  return is_jamba ? Model::JAMBA : Model::LLAMA;
}

struct Defaults {
  int64_t vocabulary, model_dim, hidden_dim, layers, heads;
};
constexpr Defaults kJamba = {65536, 4096, 14336, 32, 32};
constexpr Defaults kLlama = {32000, 4096, 11008, 32, 32};

// What both families have. num_key_value_heads: absent means `kv_heads` (0: as many as heads), null
// always as many as heads.
void ReadShared(ConfigFields& fields, const Defaults& defaults, int64_t kv_heads, Model& model) {
  model.set_vocabulary(fields.Integer("vocab_size", defaults.vocabulary, 2));
  model.set_model_dim(fields.Integer("hidden_size", defaults.model_dim, 1));
  model.set_hidden_dim(fields.Integer("intermediate_size", defaults.hidden_dim, 1));
  model.set_layers(fields.Integer("num_hidden_layers", defaults.layers, 1));
  model.set_rms_norm_epsilon(fields.Number("rms_norm_eps", 1e-6));
  model.set_tied_embeddings(fields.Boolean("tie_word_embeddings", false));
  model.set_initializer_range(fields.Number("initializer_range", 0.02));
  recipe::v1::Attention& attention = *model.mutable_attention();
  attention.set_heads(fields.Integer("num_attention_heads", defaults.heads, 1));
  const auto given = fields.OptionalInteger("num_key_value_heads", 1);
  if (kv_heads == 0 || fields.Contains("num_key_value_heads")) kv_heads = attention.heads();
  attention.set_kv_heads(given.value_or(kv_heads));
  if (attention.heads() % attention.kv_heads() != 0) {
    fields.Refuse("num_key_value_heads",
                  absl::StrCat("does not divide num_attention_heads = ", attention.heads()));
  }
}

// Period and offset of one kind of layer.
std::pair<int64_t, int64_t> ReadPeriod(ConfigFields& fields, const std::string& kind,
                                       int64_t period, int64_t offset) {
  period = fields.Integer(kind + "_layer_period", period, 1);
  offset = fields.Integer(kind + "_layer_offset", offset, 0);
  if (offset >= period) {
    fields.Refuse(kind + "_layer_offset",
                  absl::StrCat("must be less than ", kind, "_layer_period = ", period));
  }
  return {period, offset};
}

// Whether some layer has `offset` after division by `period`.
bool Hits(const std::pair<int64_t, int64_t>& period_and_offset, int64_t layers) {
  return period_and_offset.second < layers;
}

void ReadMamba(ConfigFields& fields, int64_t model_dim, recipe::v1::Mamba& mamba) {
  mamba.set_mixer(Model::MAMBA_1);
  mamba.set_state_dim(fields.Integer("mamba_d_state", 16, 1));
  mamba.set_conv_width(fields.Integer("mamba_d_conv", 4, 1));
  mamba.set_expand(fields.Integer("mamba_expand", 2, 1));
  mamba.set_conv_bias(fields.Boolean("mamba_conv_bias", true));
  mamba.set_projection_bias(fields.Boolean("mamba_proj_bias", false));
  const int64_t automatic = (model_dim - 1) / 16 + 1;
  const bool is_automatic = fields.IsString("mamba_dt_rank", "auto");
  mamba.set_dt_rank(is_automatic ? automatic : fields.Integer("mamba_dt_rank", automatic, 1));
  fields.Ignore("mamba_dt_rank");
  if (!fields.Boolean("mamba_inner_layernorms", true)) {
    fields.Refuse("mamba_inner_layernorms", "is not supported: Jamba's inner norms are built in");
  }
}

// Both names of the number of experts.
int64_t ReadExpertCount(ConfigFields& fields) {
  const int64_t experts = fields.Integer("num_experts", 16, 1);
  if (!fields.Has("num_local_experts")) {
    fields.Ignore("num_local_experts");
    return experts;
  }
  const int64_t alias = fields.Integer("num_local_experts", experts, 1);
  if (fields.Has("num_experts") && alias != experts) {
    fields.Refuse("num_local_experts",
                  absl::StrCat("contradicts num_experts = ", experts, "; remove one"));
  }
  return alias;
}

void ReadJamba(ConfigFields& fields, Model& model) {
  ReadShared(fields, kJamba, /*kv_heads=*/8, model);
  const auto attention = ReadPeriod(fields, "attn", 8, 4);
  const auto experts = ReadPeriod(fields, "expert", 2, 1);
  const int64_t num_experts = ReadExpertCount(fields);
  const int64_t experts_per_token = fields.Integer("num_experts_per_tok", 2, 1);
  const double balance = fields.Number("router_aux_loss_coef", 0.001);
  recipe::v1::LayerSchedule& schedule = *model.mutable_schedule();
  schedule.set_attention_layer_period(attention.first);
  schedule.set_attention_layer_offset(attention.second);
  // One expert is a dense feed-forward, by another name for its tensors' owner only.
  if (num_experts > 1 && Hits(experts, model.layers())) {
    schedule.set_expert_layer_period(experts.first);
    schedule.set_expert_layer_offset(experts.second);
    model.mutable_experts()->set_experts(num_experts);
    model.mutable_experts()->set_experts_per_token(experts_per_token);
    model.mutable_experts()->set_balance_loss_coefficient(balance);
    if (experts_per_token > num_experts) {
      fields.Refuse("num_experts_per_tok",
                    absl::StrCat("must be at most num_experts = ", num_experts));
    }
  }
  recipe::v1::Mamba mamba;
  ReadMamba(fields, model.model_dim(), mamba);
  if (attention.first > 1) *model.mutable_mamba() = mamba;  // period 1: no Mamba layer
  const int64_t heads = model.attention().heads();
  if (model.model_dim() % heads != 0) {
    fields.Refuse("num_attention_heads",
                  absl::StrCat("does not divide hidden_size = ", model.model_dim()));
  }
  // No field of Jamba; some releases of transformers take it all the same.
  const auto head_dim = fields.OptionalInteger("head_dim", 1);
  if (head_dim && *head_dim * heads != model.model_dim()) {
    fields.Refuse("head_dim",
                  "is not supported: Jamba's heads are hidden_size / num_attention_heads wide");
  }
  for (const char* field : kIgnoredOfJamba) fields.Ignore(field);
}

// One of rope_parameters and rope_scaling: the default rotary embedding and nothing else. Sets
// theta where it is given.
void ReadRotary(ConfigFields& fields, const std::string& field, std::optional<double>& theta) {
  ConfigFields rope = fields.Object(field);
  for (const char* type : {"rope_type", "type"}) {
    if (rope.String(type, "default") != "default") {
      rope.Refuse(type, "is not supported; only default is");
    }
  }
  if (rope.Number("partial_rotary_factor", 1) != 1) {
    rope.Refuse("partial_rotary_factor", "is not supported; only 1 is");
  }
  if (rope.Has("rope_theta")) {
    const double own = rope.Number("rope_theta", 0);
    if (theta && *theta != own) {
      rope.Refuse("rope_theta", absl::StrCat("contradicts the other rope_theta, ", *theta));
    }
    theta = own;
  }
  rope.Ignore("rope_theta");
  fields.Take(rope.status());
  for (const std::string& unread : rope.Unread()) {
    fields.Refuse(field, absl::StrCat("has ", unread, ", which is not supported; remove it"));
  }
}

void ReadLlama(ConfigFields& fields, Model& model) {
  ReadShared(fields, kLlama, /*kv_heads=*/0, model);
  recipe::v1::Attention& attention = *model.mutable_attention();
  const auto head_dim = fields.OptionalInteger("head_dim", 1);
  if (!head_dim && model.model_dim() % attention.heads() != 0) {
    fields.Refuse("num_attention_heads",
                  absl::StrCat("does not divide hidden_size = ", model.model_dim()));
  }
  attention.set_head_dim(head_dim.value_or(model.model_dim() / attention.heads()));
  if (attention.head_dim() % 2 != 0) {
    fields.Refuse(head_dim ? "head_dim" : "num_attention_heads",
                  "makes heads of odd width, which the rotary embedding cannot halve");
  }
  std::optional<double> theta;
  if (fields.Has("rope_theta")) theta = fields.Number("rope_theta", 10000);
  fields.Ignore("rope_theta");
  for (const char* field : {"rope_parameters", "rope_scaling"}) ReadRotary(fields, field, theta);
  if (fields.Number("partial_rotary_factor", 1) != 1) {
    fields.Refuse("partial_rotary_factor", "is not supported; only 1 is");
  }
  attention.mutable_rotary_embedding()->set_theta(theta.value_or(10000));
  for (const char* field : kIgnoredOfLlama) fields.Ignore(field);
}

// layers_block_type is a property of the class; where a file has it, it must say what the periods
// say.
void CheckLayerTypes(const Model& model, ConfigFields& fields) {
  const auto layers = LayersOf(model);
  for (const char* field : {"layers_block_type", "layer_types"}) {
    fields.Ignore(field);
    if (!fields.Has(field) || !layers.ok()) continue;
    const std::vector<std::string> types = fields.Strings(field);
    bool agrees = types.size() == layers->size();
    for (size_t i = 0; agrees && i < types.size(); ++i) {
      const bool is_attention = types[i] == "attention" || types[i] == "full_attention";
      const bool is_mamba = types[i] == "mamba" || types[i] == "linear_attention";
      agrees = (*layers)[i].mixer == MixerKind::kAttention ? is_attention : is_mamba;
    }
    if (!agrees) fields.Refuse(field, "contradicts the layers that the other fields describe");
  }
}

}  // namespace

absl::StatusOr<Model> ModelFromHuggingFaceConfig(std::string_view json, std::string_view name,
                                                 std::vector<std::string>* warnings) {
  const std::string where(name);
  PLAIT_ASSIGN_OR_RETURN(ConfigFields fields, ConfigFields::Parse(std::string(json), where));
  Model model;
  PLAIT_ASSIGN_OR_RETURN(const Model::Family family, FamilyOf(fields));
  model.set_family(family);
  if (family == Model::JAMBA) {
    ReadJamba(fields, model);
  } else {
    ReadLlama(fields, model);
  }
  RefuseUnsupported(fields);
  PLAIT_RETURN_IF_ERROR(fields.status());
  // Limits that both directions share; the sizes above have none.
  recipe::v1::Recipe recipe;
  recipe.set_schema_version(1);
  *recipe.mutable_model() = model = ResolvedModel(model);
  const auto problems = RecipeProblems(recipe, /*world_size=*/1, RecipeUse::kModelOnly);
  if (!problems.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", problems.front().ToString()));
  }
  CheckLayerTypes(model, fields);
  PLAIT_RETURN_IF_ERROR(fields.status());
  for (const char* field : kIgnored) fields.Ignore(field);
  if (warnings != nullptr) {
    for (const std::string& unread : fields.Unread()) {
      warnings->push_back(absl::StrCat(where, ": ", unread,
                                       " is no field of this model's configuration: not read"));
    }
  }
  return model;
}

absl::StatusOr<HuggingFaceTokenIds> TokenIdsFromHuggingFace(std::string_view config_json,
                                                            std::string_view generation_json,
                                                            std::string_view name) {
  const std::string where(name);
  PLAIT_ASSIGN_OR_RETURN(ConfigFields config, ConfigFields::Parse(std::string(config_json), where));
  const bool is_jamba = config.IsString("model_type", "jamba");
  HuggingFaceTokenIds ids{.bos = 1, .eos = {2}, .pad = std::nullopt};
  if (is_jamba) ids.pad = 0;
  const auto read = [&ids](ConfigFields& fields) {
    if (fields.Contains("bos_token_id")) ids.bos = fields.OptionalInteger("bos_token_id", 0);
    if (fields.Contains("eos_token_id")) ids.eos = fields.Integers("eos_token_id", 0);
    // Older files of Llama have -1 for none.
    if (fields.Contains("pad_token_id")) ids.pad = fields.OptionalInteger("pad_token_id", -1);
    if (ids.pad == -1) ids.pad.reset();
    return fields.status();
  };
  PLAIT_RETURN_IF_ERROR(read(config));
  if (generation_json.empty()) return ids;
  PLAIT_ASSIGN_OR_RETURN(ConfigFields generation,
                         ConfigFields::Parse(std::string(generation_json),
                                             absl::StrCat(where, ": generation_config.json")));
  PLAIT_RETURN_IF_ERROR(read(generation));
  return ids;
}

}  // namespace plait
