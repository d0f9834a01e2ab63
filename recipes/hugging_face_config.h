// The config.json and generation_config.json of a Hugging Face model folder, Jamba and Llama, to a
// recipe's model and back.
//   * A field that is absent has the default of transformers' configuration class.
//   * A field that changes what the model computes, and that this plait does not build, is refused
//     with its value: hidden_act, rope_parameters, attention_bias, quantization_config, ...
//   * A field without meaning for the weights is accepted: token ids, caches, limits of length.
//   * Any other field is not read, as transformers does not either: a warning names it.
// Source: transformers' JambaConfig and LlamaConfig, 4.44 to 5.23.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace plait {

namespace recipe::v1 {
class Model;
}

// json: text of a config.json; name: what errors call it ("folder/config.json"). The model has no
// unset field that a config can say, and is valid. experts.balance_loss_coefficient is
// router_aux_loss_coef whether or not the config asks for router logits. `warnings`, which may be
// absent, gets a line for each field that was not read. InvalidArgument, one line that names the
// field, its value and what to do.
absl::StatusOr<recipe::v1::Model> ModelFromHuggingFaceConfig(
    std::string_view json, std::string_view name, std::vector<std::string>* warnings = nullptr);

// The ids that generation begins and ends with.
struct HuggingFaceTokenIds {
  std::optional<int64_t> bos;
  std::vector<int64_t> eos;  // any of them ends a text; none: nothing does
  std::optional<int64_t> pad;

  friend bool operator==(const HuggingFaceTokenIds&, const HuggingFaceTokenIds&) = default;
};

// A generation_config.json's word goes before the config.json's; `generation_json` is empty where
// the folder has none. InvalidArgument.
absl::StatusOr<HuggingFaceTokenIds> TokenIdsFromHuggingFace(std::string_view config_json,
                                                            std::string_view generation_json,
                                                            std::string_view name);

struct HuggingFaceConfigOptions {
  std::string dtype;  // of the tensors: "bfloat16", "float16" or "float32"
  HuggingFaceTokenIds token_ids;
  int64_t max_position_embeddings = 0;  // 0: the source's, else the class default
  // Text of the config.json that the weights began with; empty: there was none. Its fields that
  // say nothing about the model are kept, and its order.
  std::string source;
};

// A config.json that loads in transformers of any release since 4.44: dtype and rotary embedding in
// both spellings. What only training knows (activation loss, z loss, initialisation of dt) is left
// out. FailedPrecondition where no config can say what the model is: layers that no period and
// offset describe, rotary embedding in Jamba, heads of another width there. InvalidArgument where
// the model is not valid, or the source not readable or of another family.
absl::StatusOr<std::string> HuggingFaceConfigText(const recipe::v1::Model& model,
                                                  const HuggingFaceConfigOptions& options);

// `source` as in HuggingFaceConfigOptions: text of a generation_config.json, may be empty.
absl::StatusOr<std::string> HuggingFaceGenerationText(const HuggingFaceTokenIds& token_ids,
                                                      const std::string& source);

}  // namespace plait
