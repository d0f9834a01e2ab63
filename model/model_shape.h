// ModelShape: the sizes and coefficients of a model, taken once from a resolved recipe, so that
// layers see plain values.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "model/context_attention_plan.h"
#include "recipes/layer_pattern.h"

namespace plait {

namespace recipe::v1 {
class Model;
}

enum class ModelFamily { kJamba, kLlama };
enum class DtInitialization { kMamba, kReference };

struct ModelShape {
  ModelFamily family = ModelFamily::kJamba;
  int64_t vocabulary = 0;
  int64_t model_dim = 0;
  int64_t hidden_dim = 0;
  std::vector<LayerKind> layers;
  double rms_norm_epsilon = 1e-6;
  bool tied_embeddings = false;
  double initializer_range = 0.02;

  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  double rotary_theta = 0;  // 0: no position embedding
  // How the ranks of the context axis attend; not of the model, and the same in effect.
  ContextExchange context_exchange = ContextExchange::kGather;

  int64_t state_dim = 0;
  int64_t conv_width = 0;
  int64_t channels = 0;  // expand x model_dim
  int64_t dt_rank = 0;
  bool conv_bias = true;
  bool projection_bias = false;
  DtInitialization dt_initialization = DtInitialization::kMamba;

  int64_t experts = 0;
  int64_t experts_per_token = 0;
  double balance_loss_coefficient = 0;
  double z_loss_coefficient = 0;
  // Not of the model but of the run, where experts are dealt over ranks: ExpertSizes::wave_tokens.
  int64_t expert_wave_tokens = 0;

  double activation_loss_coefficient = 0;
  bool activation_loss_on_block_output = false;
  bool activation_loss_on_expert_output = false;
  bool activation_loss_on_residual = false;

  int64_t num_blocks() const { return 2 * static_cast<int64_t>(layers.size()); }
  int64_t num_expert_layers() const;

  // `model` must be resolved (defaults filled) and valid.
  static absl::StatusOr<ModelShape> FromRecipe(const recipe::v1::Model& model);
};

}  // namespace plait
