#include "recipes/recipe_defaults.h"

#include <algorithm>

#include "recipes/layer_pattern.h"

// Sets field of message to value where it is unset.
#define PLAIT_DEFAULT(message, field, value)                      \
  do {                                                            \
    if (!(message)->has_##field()) (message)->set_##field(value); \
  } while (false)

namespace plait {
namespace {

using namespace recipe::v1;  // NOLINT: every message of the schema is named below

void ResolveMamba(int64_t model_dim, Mamba* mamba) {
  PLAIT_DEFAULT(mamba, mixer, Model::MAMBA_1);
  PLAIT_DEFAULT(mamba, state_dim, 16);
  PLAIT_DEFAULT(mamba, conv_width, 4);
  PLAIT_DEFAULT(mamba, expand, 2);
  if (model_dim > 0) PLAIT_DEFAULT(mamba, dt_rank, (model_dim - 1) / 16 + 1);
  PLAIT_DEFAULT(mamba, conv_bias, true);
  PLAIT_DEFAULT(mamba, projection_bias, false);
  PLAIT_DEFAULT(mamba, dt_initialization, Mamba::MAMBA);
}

void ResolveAttention(int64_t model_dim, Attention* attention) {
  const int64_t heads = attention->heads();
  if (attention->has_heads()) PLAIT_DEFAULT(attention, kv_heads, heads);
  if (heads > 0 && model_dim > 0 && model_dim % heads == 0) {
    PLAIT_DEFAULT(attention, head_dim, model_dim / heads);
  }
  if (attention->has_rotary_embedding()) {
    PLAIT_DEFAULT(attention->mutable_rotary_embedding(), theta, 10000.0);
  }
}

void ResolveStage(Stage* stage) {
  PLAIT_DEFAULT(stage, rows_per_microbatch, 1);
  if (!stage->has_schedule()) return;
  Schedule* schedule = stage->mutable_schedule();
  if (schedule->has_learning_rate_peak()) {
    PLAIT_DEFAULT(schedule, learning_rate_final, 0.1 * schedule->learning_rate_peak());
  }
  PLAIT_DEFAULT(schedule, learning_rate_start, 0.0);
  PLAIT_DEFAULT(schedule, warmup_steps, 0);
  PLAIT_DEFAULT(schedule, shape, Schedule::COSINE);
}

void ResolveOptim(Optim* optim) {
  AdamW* adamw = optim->mutable_adamw();
  PLAIT_DEFAULT(adamw, beta1, 0.9);
  PLAIT_DEFAULT(adamw, beta2, 0.95);
  PLAIT_DEFAULT(adamw, epsilon, 1e-8);
  PLAIT_DEFAULT(adamw, weight_decay, 0.1);
  PLAIT_DEFAULT(optim, gradient_clip_norm, 0.0);
}

void ResolveParallel(Parallel* parallel) {
  PLAIT_DEFAULT(parallel, replicate, 1);
  PLAIT_DEFAULT(parallel, context, 1);
  PLAIT_DEFAULT(parallel, tensor, 1);
  PLAIT_DEFAULT(parallel, pipeline, 1);
  PLAIT_DEFAULT(parallel, pipeline_chunks, 1);
  PLAIT_DEFAULT(parallel, expert, 1);
  PLAIT_DEFAULT(parallel, reduction, Parallel::DEFAULT);
  PLAIT_DEFAULT(parallel, gradient_wire_dtype, Parallel::F32);
  PLAIT_DEFAULT(parallel, transport, Parallel::AUTO);
  PLAIT_DEFAULT(parallel, device_sums, Parallel::RANK_ORDER);
  PLAIT_DEFAULT(parallel, context_attention, Parallel::GATHER);
}

void ResolveTrainer(Trainer* trainer) {
  PLAIT_DEFAULT(trainer, device, Trainer::AUTO);
  PLAIT_DEFAULT(trainer, precision, Trainer::BF16);
  PLAIT_DEFAULT(trainer, recomputation, Trainer::NONE);
  PLAIT_DEFAULT(trainer, non_finite, Trainer::STOP);
  PLAIT_DEFAULT(trainer, checkpoint_every_steps, 0);
  PLAIT_DEFAULT(trainer, checkpoints_to_keep, 2);
  PLAIT_DEFAULT(trainer, evaluate_every_steps, 0);
  PLAIT_DEFAULT(trainer, log_every_steps, 10);
  PLAIT_DEFAULT(trainer, collective_timeout_seconds, 60.0);
}

}  // namespace

Model ResolvedModel(const Model& model) {
  Model resolved = model;
  PLAIT_DEFAULT(&resolved, rms_norm_epsilon, 1e-6);
  PLAIT_DEFAULT(&resolved, tied_embeddings, false);
  PLAIT_DEFAULT(&resolved, initializer_range, 0.02);
  ActivationLoss* activation_loss = resolved.mutable_activation_loss();
  PLAIT_DEFAULT(activation_loss, coefficient, 0.0);
  if (activation_loss->sites().empty()) activation_loss->add_sites(ActivationLoss::BLOCK_OUTPUT);
  if (resolved.has_attention()) {
    ResolveAttention(resolved.model_dim(), resolved.mutable_attention());
  }
  if (resolved.has_experts()) {
    Experts* experts = resolved.mutable_experts();
    PLAIT_DEFAULT(experts, experts_per_token, 2);
    PLAIT_DEFAULT(experts, balance_loss_coefficient, 0.0);
    PLAIT_DEFAULT(experts, z_loss_coefficient, 0.0);
  }
  // A model with Mamba layers has all of Mamba's fields, even where the recipe names none.
  const auto layers = LayersOf(resolved);
  const bool has_mamba =
      layers.ok() && std::any_of(layers->begin(), layers->end(), [](const LayerKind& layer) {
        return layer.mixer == MixerKind::kMamba1;
      });
  if (has_mamba || resolved.has_mamba()) {
    ResolveMamba(resolved.model_dim(), resolved.mutable_mamba());
  }
  return resolved;
}

Recipe Resolved(const Recipe& recipe) {
  Recipe resolved = recipe;
  PLAIT_DEFAULT(&resolved, seed, 1);
  if (resolved.has_model()) *resolved.mutable_model() = ResolvedModel(recipe.model());
  ResolveParallel(resolved.mutable_parallel());
  PLAIT_DEFAULT(resolved.mutable_data(), prefetch_batches, 2);
  ResolveOptim(resolved.mutable_optim());
  for (Stage& stage : *resolved.mutable_stages()) ResolveStage(&stage);
  ResolveTrainer(resolved.mutable_trainer());
  return resolved;
}

}  // namespace plait
