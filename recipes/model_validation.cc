#include <algorithm>
#include <set>

#include "recipes/layer_pattern.h"
#include "recipes/problem_list.h"

namespace plait {
namespace {

using recipe::v1::ActivationLoss;
using recipe::v1::Model;

// Far above any model, low enough that counts and byte offsets stay within 64 bits.
constexpr int64_t kMaxDim = 1 << 20;
constexpr int64_t kMaxVocabulary = 1 << 24;
constexpr int64_t kMaxExperts = 4096;

void CheckSizes(const Model& model, ProblemList& problems) {
  problems.Require(model.has_family(), "model.family", "(JAMBA or LLAMA)");
  if (problems.Require(model.has_vocabulary(), "model.vocabulary")) {
    problems.Between("model.vocabulary", model.vocabulary(), 2, kMaxVocabulary);
  }
  if (problems.Require(model.has_model_dim(), "model.model_dim")) {
    problems.Between("model.model_dim", model.model_dim(), 1, kMaxDim);
  }
  if (problems.Require(model.has_hidden_dim(), "model.hidden_dim")) {
    problems.Between("model.hidden_dim", model.hidden_dim(), 1, kMaxDim);
  }
  if (problems.Require(model.has_layers(), "model.layers")) {
    problems.Between("model.layers", model.layers(), 1, kMaxLayers);
  }
  problems.Above("model.rms_norm_epsilon", model.rms_norm_epsilon(), 0);
  problems.Above("model.initializer_range", model.initializer_range(), 0);
}

void CheckPeriod(const std::string& kind, bool has_period, int64_t period, bool has_offset,
                 int64_t offset, ProblemList& problems) {
  const std::string name = "model.schedule." + kind + "_layer_";
  const bool period_set = problems.Require(has_period, name + "period");
  const bool offset_set = problems.Require(has_offset, name + "offset");
  if (period_set && !problems.AtLeast<int64_t>(name + "period", period, 1)) return;
  if (!offset_set || !problems.AtLeast<int64_t>(name + "offset", offset, 0) || !period_set) return;
  if (offset >= period) {
    problems.Add(name + "offset", offset,
                 absl::StrCat("must be less than ", name, "period = ", period));
  }
}

// Adds what is wrong with the description of the layers.
void CheckLayers(const Model& model, ProblemList& problems) {
  if (model.family() == Model::LLAMA) {
    const std::string rule = "does not fit model.family = LLAMA; remove it";
    if (model.has_schedule()) problems.Add("model.schedule", "{...}", rule);
    if (model.has_pattern()) problems.Add("model.pattern", model.pattern(), rule);
    if (model.has_mamba()) problems.Add("model.mamba", "{...}", rule);
    if (model.has_experts()) problems.Add("model.experts", "{...}", rule);
    return;
  }
  if (model.has_schedule() == model.has_pattern()) {
    if (model.has_pattern()) {
      problems.Add("model.pattern", model.pattern(), "and model.schedule exclude each other");
    } else {
      problems.AddMissing("model.pattern", "where model.schedule is not set");
    }
    return;
  }
  if (model.has_pattern()) {
    const auto layers = ParseLayerPattern(model.pattern());
    if (!layers.ok()) {
      problems.Add("model.pattern", model.pattern(),
                   absl::StrCat("is not a pattern: ", layers.status().message()));
    } else if (model.has_layers() && static_cast<int64_t>(layers->size()) != model.layers()) {
      problems.Add("model.pattern", model.pattern(),
                   absl::StrCat("has ", layers->size(),
                                " layers, expected model.layers = ", model.layers()));
    }
    return;
  }
  const recipe::v1::LayerSchedule& schedule = model.schedule();
  CheckPeriod("attention", schedule.has_attention_layer_period(), schedule.attention_layer_period(),
              schedule.has_attention_layer_offset(), schedule.attention_layer_offset(), problems);
  if (schedule.has_expert_layer_period() || schedule.has_expert_layer_offset()) {
    CheckPeriod("expert", schedule.has_expert_layer_period(), schedule.expert_layer_period(),
                schedule.has_expert_layer_offset(), schedule.expert_layer_offset(), problems);
    problems.Require(model.has_experts(), "model.experts", "by model.schedule.expert_layer_period");
  }
}

void CheckAttention(const Model& model, bool is_used, ProblemList& problems) {
  if (!model.has_attention()) {
    if (is_used) problems.AddMissing("model.attention", "by the attention layers");
    return;
  }
  const recipe::v1::Attention& attention = model.attention();
  if (problems.Require(attention.has_heads(), "model.attention.heads") &&
      problems.Between("model.attention.heads", attention.heads(), 1, kMaxDim)) {
    // Resolving leaves head_dim unset only where the heads do not divide the width.
    if (!attention.has_head_dim() && model.model_dim() > 0) {
      problems.Divides("model.attention.heads", attention.heads(), "model.model_dim",
                       model.model_dim());
    }
    if (problems.AtLeast<int64_t>("model.attention.kv_heads", attention.kv_heads(), 1)) {
      problems.Divides("model.attention.kv_heads", attention.kv_heads(), "model.attention.heads",
                       attention.heads());
    }
  }
  const bool head_dim_valid =
      attention.has_head_dim() &&
      problems.Between("model.attention.head_dim", attention.head_dim(), 1, kMaxDim);
  if (attention.has_rotary_embedding()) {
    problems.Above("model.attention.rotary_embedding.theta", attention.rotary_embedding().theta(),
                   0);
    if (head_dim_valid && attention.head_dim() % 2 != 0) {
      problems.Add("model.attention.head_dim", attention.head_dim(),
                   "must be even for model.attention.rotary_embedding");
    }
  } else if (model.family() == Model::LLAMA) {
    problems.AddMissing("model.attention.rotary_embedding", "by model.family = LLAMA");
  }
}

void CheckMamba(const Model& model, ProblemList& problems) {
  if (!model.has_mamba() || model.family() == Model::LLAMA) return;
  const recipe::v1::Mamba& mamba = model.mamba();
  if (mamba.mixer() == Model::MAMBA_2) {
    problems.Add("model.mamba.mixer", "MAMBA_2", "is not built yet; use MAMBA_1");
  } else if (mamba.mixer() == Model::ATTENTION) {
    problems.Add("model.mamba.mixer", "ATTENTION",
                 "is not a Mamba mixer; use MAMBA_1 and choose attention layers in the pattern");
  }
  problems.Between("model.mamba.state_dim", mamba.state_dim(), 1, 1024);
  problems.Between("model.mamba.conv_width", mamba.conv_width(), 1, 64);
  if (problems.Between("model.mamba.expand", mamba.expand(), 1, 64) && model.model_dim() > 0) {
    if (mamba.has_dt_rank()) problems.Between("model.mamba.dt_rank", mamba.dt_rank(), 1, kMaxDim);
  }
}

void CheckExperts(const Model& model, bool is_used, ProblemList& problems) {
  if (model.family() == Model::LLAMA) return;
  if (!model.has_experts()) {
    if (is_used && model.has_pattern()) {
      problems.AddMissing("model.experts", "by the expert layers of model.pattern");
    }
    return;
  }
  const recipe::v1::Experts& experts = model.experts();
  const bool has_count =
      problems.Require(experts.has_experts(), "model.experts.experts") &&
      problems.Between("model.experts.experts", experts.experts(), 2, kMaxExperts);
  if (problems.AtLeast<int64_t>("model.experts.experts_per_token", experts.experts_per_token(),
                                1) &&
      has_count && experts.experts_per_token() > experts.experts()) {
    problems.Add("model.experts.experts_per_token", experts.experts_per_token(),
                 absl::StrCat("must be at most model.experts.experts = ", experts.experts()));
  }
  problems.AtLeast("model.experts.balance_loss_coefficient", experts.balance_loss_coefficient(),
                   0.0);
  problems.AtLeast("model.experts.z_loss_coefficient", experts.z_loss_coefficient(), 0.0);
  if (has_count && !is_used) {
    problems.Add("model.experts.experts", experts.experts(),
                 "has no layer to be in; give the schedule or the pattern an expert layer");
  }
}

void CheckActivationLoss(const Model& model, ProblemList& problems) {
  const ActivationLoss& loss = model.activation_loss();
  problems.AtLeast("model.activation_loss.coefficient", loss.coefficient(), 0.0);
  std::set<int> seen;
  for (int i = 0; i < loss.sites_size(); ++i) {
    const ActivationLoss::Site site = loss.sites(i);
    if (site == ActivationLoss::SITE_UNSPECIFIED || !ActivationLoss::Site_IsValid(site)) continue;
    const std::string field = absl::StrCat("model.activation_loss.sites.", i);
    if (!seen.insert(site).second) {
      problems.Add(field, ActivationLoss::Site_Name(site), "is listed twice");
    }
  }
}

// Sizes that the tensor, expert and pipeline axes cut.
void CheckAxes(const recipe::v1::Recipe& recipe, ProblemList& problems) {
  const Model& model = recipe.model();
  const auto divides = [&](const char* axis, int64_t size, const char* field, int64_t value) {
    if (size > 1 && value > 0) {
      problems.Divides(absl::StrCat("parallel.", axis), size, absl::StrCat("model.", field), value);
    }
  };
  const int64_t tensor = recipe.parallel().tensor();
  divides("tensor", tensor, "attention.heads", model.attention().heads());
  divides("tensor", tensor, "attention.kv_heads", model.attention().kv_heads());
  divides("tensor", tensor, "hidden_dim", model.hidden_dim());
  divides("tensor", tensor, "vocabulary", model.vocabulary());
  if (model.has_mamba()) {
    divides("tensor", tensor, "mamba.expand x model.model_dim",
            std::clamp<int64_t>(model.mamba().expand(), 0, 64) *
                std::clamp<int64_t>(model.model_dim(), 0, kMaxDim));
  }
  if (model.has_experts()) {
    // Tensor ranks are dealt experts of their own.
    const int64_t expert = std::clamp<int64_t>(recipe.parallel().expert(), 1, kMaxAxis);
    const int64_t tensors = std::clamp<int64_t>(tensor, 1, kMaxAxis);
    divides(tensors == 1  ? "expert"
            : expert == 1 ? "tensor"
                          : "expert x parallel.tensor",
            expert * tensors, "experts.experts", model.experts().experts());
  } else if (recipe.parallel().expert() > 1) {
    problems.Add("parallel.expert", recipe.parallel().expert(), "needs model.experts");
  }
}

void CheckPipeline(const recipe::v1::Recipe& recipe, ProblemList& problems) {
  const Model& model = recipe.model();
  const int64_t stages = recipe.parallel().pipeline(), chunks = recipe.parallel().pipeline_chunks();
  if (stages <= 1) {
    if (chunks > 1) {
      problems.Add("parallel.pipeline_chunks", chunks,
                   "needs parallel.pipeline of at least 2; with one stage there is nothing to "
                   "interleave");
    }
    return;
  }
  const std::string stages_text = absl::StrCat("parallel.pipeline = ", stages);
  if (model.tied_embeddings()) {
    problems.Add("model.tied_embeddings", "true",
                 absl::StrCat("is not built for ", stages_text, "; untie them or use one stage"));
  }
  const int64_t blocks = 2 * std::clamp<int64_t>(model.layers(), 0, kMaxLayers);
  if (model.layers() < 1) return;
  const std::string rule = absl::StrCat(" blocks of model.layers = ", model.layers());
  if (stages > blocks) {
    problems.Add("parallel.pipeline", stages,
                 absl::StrCat("is more stages than the ", blocks, rule));
  } else if (chunks > blocks / stages) {
    problems.Add("parallel.pipeline_chunks", chunks,
                 absl::StrCat("with ", stages_text, " is more parts than the ", blocks, rule));
  }
}

}  // namespace

void CheckModel(const recipe::v1::Recipe& recipe, ProblemList& problems) {
  if (!problems.Require(recipe.has_model(), "model")) return;
  const Model& model = recipe.model();
  CheckSizes(model, problems);
  CheckLayers(model, problems);
  const auto layers = LayersOf(model);
  bool has_attention = false, has_experts = false;
  if (layers.ok()) {
    for (const LayerKind& layer : *layers) {
      has_attention |= layer.mixer == MixerKind::kAttention;
      has_experts |= layer.feed_forward == FeedForwardKind::kExperts;
    }
  }
  CheckAttention(model, has_attention, problems);
  CheckMamba(model, problems);
  // Where the layers are not described, that is the problem, not what they would have needed.
  CheckExperts(model, has_experts || !layers.ok(), problems);
  CheckActivationLoss(model, problems);
  CheckAxes(recipe, problems);
  CheckPipeline(recipe, problems);
}

}  // namespace plait
