// Writing: see hugging_face_config.h.
#include <simdjson.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/json_numbers.h"
#include "base/status_macros.h"
#include "recipes/config_fields.h"
#include "recipes/hugging_face_config.h"
#include "recipes/layer_pattern.h"
#include "recipes/recipe_defaults.h"
#include "recipes/recipe_digest.h"
#include "recipes/recipe_validation.h"
#include "recipes/schema/recipe.pb.h"

namespace plait {
namespace {

using Json = nlohmann::ordered_json;
using recipe::v1::Model;

constexpr char kSourceName[] = "the config.json that the weights began with";

Json Copied(const simdjson::dom::element& value) {
  switch (value.type()) {
    case simdjson::dom::element_type::ARRAY: {
      Json list = Json::array();
      for (const auto item : simdjson::dom::array(value)) list.push_back(Copied(item));
      return list;
    }
    case simdjson::dom::element_type::OBJECT: {
      Json object = Json::object();
      for (const auto field : simdjson::dom::object(value)) {
        object[std::string(field.key)] = Copied(field.value);
      }
      return object;
    }
    case simdjson::dom::element_type::INT64:
      return int64_t(value);
    case simdjson::dom::element_type::UINT64:
      return uint64_t(value);
    case simdjson::dom::element_type::DOUBLE:
      return double(value);
    case simdjson::dom::element_type::STRING:
      return std::string(std::string_view(value));
    case simdjson::dom::element_type::BOOL:
      return bool(value);
    case simdjson::dom::element_type::NULL_VALUE:
      break;
  }
  return nullptr;
}

// An empty object for an empty text.
absl::StatusOr<Json> ParseSource(const std::string& text, const std::string& name) {
  if (text.empty()) return Json::object();
  // Its rules first: one object, no name twice, not too deep.
  PLAIT_RETURN_IF_ERROR(ConfigFields::Parse(text, name).status());
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  if (parser.parse(WithReadableNumbers(text, NotFinite::kKeep)).get(root) != simdjson::SUCCESS) {
    return absl::InternalError(absl::StrCat(name, ": was read once but not twice"));
  }
  return Copied(root);
}

// Python's way: two spaces, a line break at the end.
std::string Text(const Json& json) { return json.dump(2) + "\n"; }

// Keeps what is there.
void SetDefault(Json& json, const char* field, Json value) {
  if (!json.contains(field)) json[field] = std::move(value);
}

void SetTokenIds(const HuggingFaceTokenIds& ids, Json& json) {
  json["bos_token_id"] = ids.bos ? Json(*ids.bos) : Json();
  json["eos_token_id"] = ids.eos.empty()       ? Json()
                         : ids.eos.size() == 1 ? Json(ids.eos.front())
                                               : Json(ids.eos);
  json["pad_token_id"] = ids.pad ? Json(*ids.pad) : Json();
}

// The smallest period, and its offset, that meet exactly the layers where `is_met`. 0 where there
// is none.
std::pair<int64_t, int64_t> PeriodAndOffset(const std::vector<bool>& is_met) {
  const auto layers = static_cast<int64_t>(is_met.size());
  std::vector<int64_t> met;
  for (int64_t i = 0; i < layers; ++i) {
    if (is_met[static_cast<size_t>(i)]) met.push_back(i);
  }
  if (met.empty()) return {layers + 1, layers};
  const int64_t first = met.front();
  if (met.size() == 1) return {std::max(first + 1, layers - first), first};
  const int64_t period = met[1] - first;
  if (first >= period) return {0, 0};
  for (int64_t i = 0; i < layers; ++i) {
    if (is_met[static_cast<size_t>(i)] != (i % period == first)) return {0, 0};
  }
  return {period, first};
}

absl::Status SetPeriod(const std::vector<bool>& is_met, const std::string& kind,
                       const std::string& layers, Json& json) {
  const auto [period, offset] = PeriodAndOffset(is_met);
  if (period == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("recipe model: its ", layers, " layers do not come at one period and offset (",
                     kind, "_layer_period), which is all that a config.json can say"));
  }
  json[kind + "_layer_period"] = period;
  json[kind + "_layer_offset"] = offset;
  return absl::OkStatus();
}

// Where the source's layers are the model's, its way to say so stays.
absl::Status SetLayers(const Model& model, const std::vector<LayerKind>& layers,
                       const std::vector<LayerKind>& of_source, Json& json) {
  bool has_experts = false;
  std::vector<bool> is_attention, is_expert;
  for (const LayerKind& layer : layers) {
    is_attention.push_back(layer.mixer == MixerKind::kAttention);
    is_expert.push_back(layer.feed_forward == FeedForwardKind::kExperts);
    has_experts |= is_expert.back();
  }
  if (layers != of_source) {
    PLAIT_RETURN_IF_ERROR(SetPeriod(is_attention, "attn", "attention", json));
    PLAIT_RETURN_IF_ERROR(SetPeriod(is_expert, "expert", "expert", json));
    for (const char* property : {"layers_block_type", "layer_types"}) json.erase(property);
  }
  if (has_experts) {
    json.erase("num_local_experts");
    json["num_experts"] = model.experts().experts();
    json["num_experts_per_tok"] = model.experts().experts_per_token();
    json["router_aux_loss_coef"] = model.experts().balance_loss_coefficient();
  } else if (layers != of_source) {
    json.erase("num_local_experts");
    json["num_experts"] = 1;
    json["num_experts_per_tok"] = 1;
  }
  SetDefault(json, "output_router_logits", false);
  return absl::OkStatus();
}

absl::Status SetJamba(const Model& model, const std::vector<LayerKind>& of_source, Json& json) {
  PLAIT_ASSIGN_OR_RETURN(const std::vector<LayerKind> layers, LayersOf(model));
  if (model.attention().has_rotary_embedding()) {
    return absl::FailedPreconditionError(
        "recipe model.attention.rotary_embedding: no config.json of Jamba can say that there is "
        "one");
  }
  const bool has_attention = model.has_attention();
  const int64_t heads = has_attention ? model.attention().heads() : 1;
  if (has_attention && model.attention().head_dim() * heads != model.model_dim()) {
    return absl::FailedPreconditionError(
        absl::StrCat("recipe model.attention.head_dim = ", model.attention().head_dim(),
                     ": a config.json of Jamba has heads of model_dim / heads only"));
  }
  json["num_attention_heads"] = heads;
  json["num_key_value_heads"] = has_attention ? model.attention().kv_heads() : 1;
  PLAIT_RETURN_IF_ERROR(SetLayers(model, layers, of_source, json));
  if (model.has_mamba()) {
    const recipe::v1::Mamba& mamba = model.mamba();
    json["mamba_d_state"] = mamba.state_dim();
    json["mamba_d_conv"] = mamba.conv_width();
    json["mamba_expand"] = mamba.expand();
    json["mamba_dt_rank"] = mamba.dt_rank();
    json["mamba_conv_bias"] = mamba.conv_bias();
    json["mamba_proj_bias"] = mamba.projection_bias();
  }
  return absl::OkStatus();
}

absl::Status SetLlama(const Model& model, Json& json) {
  const recipe::v1::Attention& attention = model.attention();
  if (model.model_dim() % attention.heads() != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "recipe model.attention.heads = ", attention.heads(),
        " does not divide model.model_dim = ", model.model_dim(), ", which transformers refuses"));
  }
  json["num_attention_heads"] = attention.heads();
  json["num_key_value_heads"] = attention.kv_heads();
  json["head_dim"] = attention.head_dim();
  const double theta = attention.rotary_embedding().theta();
  json["rope_theta"] = theta;
  json["rope_scaling"] = nullptr;
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", theta}};
  SetDefault(json, "attention_bias", false);
  SetDefault(json, "mlp_bias", false);
  return absl::OkStatus();
}

absl::Status SetDType(const std::string& dtype, Json& json) {
  Json value = dtype;
  if (dtype.empty()) {
    value = json.contains("dtype") ? json["dtype"] : json.value("torch_dtype", Json());
  } else if (dtype != "bfloat16" && dtype != "float16" && dtype != "float32") {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype '", dtype, "': expected bfloat16, float16 or float32"));
  }
  if (value.is_null()) return absl::OkStatus();
  json["dtype"] = value;
  json["torch_dtype"] = value;
  return absl::OkStatus();
}

// What a config can say of a model, in one way.
std::string Sayable(Model model) {
  model = ResolvedModel(model);
  bool has_attention = false, has_mamba = false, has_experts = false;
  if (const auto layers = LayersOf(model); layers.ok()) {
    for (const LayerKind& layer : *layers) {
      has_attention |= layer.mixer == MixerKind::kAttention;
      has_mamba |= layer.mixer == MixerKind::kMamba1;
      has_experts |= layer.feed_forward == FeedForwardKind::kExperts;
    }
    model.set_pattern(ShortestPattern(*layers));
  }
  model.clear_schedule();
  model.clear_activation_loss();
  if (!has_attention) model.clear_attention();
  if (!has_mamba) model.clear_mamba();
  if (!has_experts) model.clear_experts();
  if (has_mamba) model.mutable_mamba()->clear_dt_initialization();
  if (has_experts) model.mutable_experts()->clear_z_loss_coefficient();
  recipe::v1::Recipe recipe;
  *recipe.mutable_model() = std::move(model);
  return RecipeText(recipe);
}

}  // namespace

absl::StatusOr<std::string> HuggingFaceConfigText(const Model& unresolved,
                                                  const HuggingFaceConfigOptions& options) {
  const Model model = ResolvedModel(unresolved);
  recipe::v1::Recipe recipe;
  recipe.set_schema_version(1);
  *recipe.mutable_model() = model;
  PLAIT_RETURN_IF_ERROR(ValidateRecipe(recipe, /*world_size=*/1, RecipeUse::kModelOnly));
  const bool is_jamba = model.family() == Model::JAMBA;
  PLAIT_ASSIGN_OR_RETURN(Json json, ParseSource(options.source, kSourceName));
  std::vector<LayerKind> of_source;
  if (!options.source.empty()) {
    PLAIT_ASSIGN_OR_RETURN(const Model source,
                           ModelFromHuggingFaceConfig(options.source, kSourceName));
    if (source.family() != model.family()) {
      return absl::InvalidArgumentError(
          absl::StrCat(kSourceName, ": is of ", Model::Family_Name(source.family()), ", the model ",
                       Model::Family_Name(model.family())));
    }
    PLAIT_ASSIGN_OR_RETURN(of_source, LayersOf(source));
  }
  json["architectures"] = Json::array({is_jamba ? "JambaForCausalLM" : "LlamaForCausalLM"});
  json["model_type"] = is_jamba ? "jamba" : "llama";
  json["vocab_size"] = model.vocabulary();
  json["hidden_size"] = model.model_dim();
  json["intermediate_size"] = model.hidden_dim();
  json["num_hidden_layers"] = model.layers();
  PLAIT_RETURN_IF_ERROR(is_jamba ? SetJamba(model, of_source, json) : SetLlama(model, json));
  json["hidden_act"] = "silu";
  json["rms_norm_eps"] = model.rms_norm_epsilon();
  json["initializer_range"] = model.initializer_range();
  json["tie_word_embeddings"] = model.tied_embeddings();
  SetDefault(json, "attention_dropout", 0.0);
  if (options.max_position_embeddings > 0) {
    json["max_position_embeddings"] = options.max_position_embeddings;
  }
  SetDefault(json, "max_position_embeddings", is_jamba ? 262144 : 2048);
  SetTokenIds(options.token_ids, json);
  SetDefault(json, "use_cache", true);
  PLAIT_RETURN_IF_ERROR(SetDType(options.dtype, json));
  const std::string text = Text(json);

  // Nothing of the source may say otherwise.
  PLAIT_ASSIGN_OR_RETURN(const Model back, ModelFromHuggingFaceConfig(text, "config.json"));
  if (Sayable(back) == Sayable(model)) return text;
  return absl::InternalError(absl::StrCat("config.json: says another model:\n", Sayable(back),
                                          "expected:\n", Sayable(model)));
}

absl::StatusOr<std::string> HuggingFaceGenerationText(const HuggingFaceTokenIds& token_ids,
                                                      const std::string& source) {
  PLAIT_ASSIGN_OR_RETURN(Json json,
                         ParseSource(source, "the generation_config.json of the weights"));
  SetTokenIds(token_ids, json);
  return Text(json);
}

}  // namespace plait
