#include "model/model_shape.h"

#include <algorithm>

#include "base/status_macros.h"
#include "recipes/schema/model.pb.h"

namespace plait {

int64_t ModelShape::num_expert_layers() const {
  return std::ranges::count(layers, FeedForwardKind::kExperts, &LayerKind::feed_forward);
}

absl::StatusOr<ModelShape> ModelShape::FromRecipe(const recipe::v1::Model& model) {
  ModelShape shape;
  PLAIT_ASSIGN_OR_RETURN(shape.layers, LayersOf(model));
  shape.family =
      model.family() == recipe::v1::Model::LLAMA ? ModelFamily::kLlama : ModelFamily::kJamba;
  shape.vocabulary = model.vocabulary();
  shape.model_dim = model.model_dim();
  shape.hidden_dim = model.hidden_dim();
  shape.rms_norm_epsilon = model.rms_norm_epsilon();
  shape.tied_embeddings = model.tied_embeddings();
  shape.initializer_range = model.initializer_range();

  const auto& attention = model.attention();
  shape.heads = attention.heads();
  shape.kv_heads = attention.has_kv_heads() ? attention.kv_heads() : attention.heads();
  if (shape.heads > 0) {
    shape.head_dim =
        attention.has_head_dim() ? attention.head_dim() : shape.model_dim / shape.heads;
  }
  if (attention.has_rotary_embedding()) shape.rotary_theta = attention.rotary_embedding().theta();

  const auto& mamba = model.mamba();
  shape.state_dim = mamba.state_dim();
  shape.conv_width = mamba.conv_width();
  shape.channels = mamba.expand() * shape.model_dim;
  shape.dt_rank = mamba.dt_rank();
  shape.conv_bias = mamba.conv_bias();
  shape.projection_bias = mamba.projection_bias();
  if (mamba.dt_initialization() == recipe::v1::Mamba::REFERENCE) {
    shape.dt_initialization = DtInitialization::kReference;
  }

  shape.experts = model.experts().experts();
  shape.experts_per_token = model.experts().experts_per_token();
  shape.balance_loss_coefficient = model.experts().balance_loss_coefficient();
  shape.z_loss_coefficient = model.experts().z_loss_coefficient();

  const auto& activation_loss = model.activation_loss();
  shape.activation_loss_coefficient = activation_loss.coefficient();
  for (const int site : activation_loss.sites()) {
    shape.activation_loss_on_block_output |= site == recipe::v1::ActivationLoss::BLOCK_OUTPUT;
    shape.activation_loss_on_expert_output |= site == recipe::v1::ActivationLoss::EXPERT_OUTPUT;
    shape.activation_loss_on_residual |= site == recipe::v1::ActivationLoss::RESIDUAL;
  }
  if (activation_loss.sites().empty()) shape.activation_loss_on_block_output = true;
  return shape;
}

}  // namespace plait
