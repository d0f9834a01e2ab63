#include "recipes/parameter_count.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "recipes/layer_pattern.h"
#include "recipes/recipe_defaults.h"
#include "recipes/schema/model.pb.h"

namespace plait {
namespace {

using recipe::v1::Model;

class ParameterLister {
 public:
  explicit ParameterLister(const Model& model)
      : model_(model), llama_(model.family() == Model::LLAMA), width_(model.model_dim()) {}

  std::vector<LogicalParameter> List(const std::vector<LayerKind>& layers) {
    Add("model.embed_tokens.weight", {model_.vocabulary(), width_}, ParameterRole::kEmbedding);
    for (size_t i = 0; i < layers.size(); ++i) {
      prefix_ = absl::StrCat("model.layers.", i, ".");
      ++block_;
      Add("input_layernorm.weight", {width_});
      layers[i].mixer == MixerKind::kAttention ? AddAttention() : AddMamba();
      ++block_;
      Add(llama_ ? "post_attention_layernorm.weight" : "pre_ff_layernorm.weight", {width_});
      layers[i].feed_forward == FeedForwardKind::kDense ? AddDense() : AddExperts();
    }
    prefix_.clear();
    ++block_;
    Add(llama_ ? "model.norm.weight" : "model.final_layernorm.weight", {width_});
    if (!model_.tied_embeddings()) {
      Add("lm_head.weight", {model_.vocabulary(), width_}, ParameterRole::kMatmul);
    }
    return std::move(parameters_);
  }

 private:
  void AddAttention() {
    const int64_t head_dim = model_.attention().head_dim();
    const int64_t queries = model_.attention().heads() * head_dim;
    const int64_t keys = model_.attention().kv_heads() * head_dim;
    AddMatmul("self_attn.q_proj.weight", {queries, width_});
    AddMatmul("self_attn.k_proj.weight", {keys, width_});
    AddMatmul("self_attn.v_proj.weight", {keys, width_});
    AddMatmul("self_attn.o_proj.weight", {width_, queries});
  }

  void AddMamba() {
    const recipe::v1::Mamba& mamba = model_.mamba();
    const int64_t channels = mamba.expand() * width_;
    const int64_t rank = mamba.dt_rank(), states = mamba.state_dim();
    AddMatmul("mamba.in_proj.weight", {2 * channels, width_});
    if (mamba.projection_bias()) Add("mamba.in_proj.bias", {2 * channels});
    Add("mamba.conv1d.weight", {channels, 1, mamba.conv_width()});
    if (mamba.conv_bias()) Add("mamba.conv1d.bias", {channels});
    AddMatmul("mamba.x_proj.weight", {rank + 2 * states, channels});
    Add("mamba.dt_layernorm.weight", {rank});
    Add("mamba.b_layernorm.weight", {states});
    Add("mamba.c_layernorm.weight", {states});
    AddMatmul("mamba.dt_proj.weight", {channels, rank});
    Add("mamba.dt_proj.bias", {channels});
    Add("mamba.A_log", {channels, states});
    Add("mamba.D", {channels});
    AddMatmul("mamba.out_proj.weight", {width_, channels});
    if (mamba.projection_bias()) Add("mamba.out_proj.bias", {width_});
  }

  void AddDense() {
    const std::string block = llama_ ? "mlp." : "feed_forward.";
    AddMatmul(block + "gate_proj.weight", {model_.hidden_dim(), width_});
    AddMatmul(block + "up_proj.weight", {model_.hidden_dim(), width_});
    AddMatmul(block + "down_proj.weight", {width_, model_.hidden_dim()});
  }

  void AddExperts() {
    const int64_t experts = model_.experts().experts(), hidden = model_.hidden_dim();
    AddMatmul("feed_forward.router.weight", {experts, width_});
    Add("feed_forward.experts.gate_up_proj", {experts, 2 * hidden, width_},
        ParameterRole::kExpertMatmul);
    Add("feed_forward.experts.down_proj", {experts, width_, hidden}, ParameterRole::kExpertMatmul);
  }

  void AddMatmul(const std::string& name, const Shape& shape) {
    Add(name, shape, ParameterRole::kMatmul);
  }
  void Add(const std::string& name, const Shape& shape,
           ParameterRole role = ParameterRole::kOther) {
    parameters_.push_back({prefix_ + name, shape, role, block_});
  }

  const Model& model_;
  const bool llama_;
  const int64_t width_;
  std::string prefix_;
  int64_t block_ = -1;
  std::vector<LogicalParameter> parameters_;
};

}  // namespace

int64_t LogicalParameter::MatmulElementsPerToken(int64_t experts_per_token) const {
  switch (role) {
    case ParameterRole::kMatmul:
      return shape.num_elements();
    case ParameterRole::kExpertMatmul:
      return shape.num_elements() / shape[0] * experts_per_token;
    default:
      return 0;
  }
}

absl::StatusOr<std::vector<LogicalParameter>> LogicalParameters(const Model& model) {
  const Model resolved = ResolvedModel(model);
  PLAIT_ASSIGN_OR_RETURN(const std::vector<LayerKind> layers, LayersOf(resolved));
  return ParameterLister(resolved).List(layers);
}

absl::StatusOr<ParameterCount> CountParameters(const Model& model) {
  const Model resolved = ResolvedModel(model);
  PLAIT_ASSIGN_OR_RETURN(const std::vector<LayerKind> layers, LayersOf(resolved));
  ParameterCount count;
  for (const LayerKind& layer : layers) {
    ++(layer.mixer == MixerKind::kAttention ? count.attention_layers : count.mamba_layers);
    ++(layer.feed_forward == FeedForwardKind::kExperts ? count.expert_layers : count.dense_layers);
  }
  int64_t one_expert_per_layer = 0;
  for (const LogicalParameter& parameter : ParameterLister(resolved).List(layers)) {
    const int64_t elements = parameter.shape.num_elements();
    count.total += elements;
    if (parameter.role == ParameterRole::kExpertMatmul) {
      count.in_experts += elements;
      one_expert_per_layer += elements / parameter.shape[0];
    } else {
      count.active_per_token += elements;
    }
    const bool is_head = parameter.role == ParameterRole::kEmbedding && resolved.tied_embeddings();
    if (parameter.role == ParameterRole::kMatmul || is_head) {
      count.matmul_active_per_token += elements;
    }
  }
  const int64_t active_in_experts = one_expert_per_layer * resolved.experts().experts_per_token();
  count.active_per_token += active_in_experts;
  count.matmul_active_per_token += active_in_experts;
  const recipe::v1::Attention& attention = resolved.attention();
  count.attention_width = attention.heads() * attention.head_dim();
  count.kv_elements_per_token =
      2 * count.attention_layers * attention.kv_heads() * attention.head_dim();
  return count;
}

double ModelFlopsPerToken(const ParameterCount& count, int64_t row_tokens) {
  const double attention = static_cast<double>(count.attention_layers) *
                           static_cast<double>(count.attention_width) *
                           static_cast<double>(row_tokens);
  return 6.0 * static_cast<double>(count.matmul_active_per_token) + 6.0 * attention;
}

}  // namespace plait
