// Dense feed-forward block: x + down_proj(silu(gate_proj(y)) * up_proj(y)), y = rms(x).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/block.h"
#include "model/linear.h"
#include "model/model_shape.h"
#include "model/pre_norm.h"
#include "model/tensor_parallel.h"

namespace plait {

class FeedForwardBlock : public Block {
 public:
  // layer_name: "model.layers.3". The names inside follow the family: feed_forward and
  // pre_ff_layernorm for Jamba, mlp and post_attention_layernorm for Llama.
  FeedForwardBlock(const ModelShape& shape, const std::string& layer_name, DType dtype,
                   const DeviceMesh& mesh);

  const std::string& name() const override { return name_; }
  std::vector<LayerParameter*> parameters() override;
  const Routing* routing(const Saved&) const override { return nullptr; }
  absl::Status Forward(Execution& execution, const BlockForwardContext& context,
                       ResidualStream& stream, std::unique_ptr<Saved>* saved) override;
  absl::StatusOr<Tensor> Backward(Execution& execution, const BlockBackwardContext& context,
                                  const Tensor& gradient, const Saved& saved) override;

 private:
  struct FeedForwardSaved : Saved {
    PreNorm::Saved norm;
    Tensor gate_up;  // [tokens, 2 x hidden_dim]: gate, then up
  };

  std::string name_;
  bool keep_output_;
  TensorParallel tensor_;
  int64_t hidden_dim_;  // of this rank
  PreNorm norm_;
  Linear gate_, up_, down_;
};

// "feed_forward" and "pre_ff_layernorm", or Llama's "mlp" and "post_attention_layernorm".
std::string FeedForwardName(const ModelShape& shape, const std::string& layer_name);
std::string FeedForwardNormName(const ModelShape& shape, const std::string& layer_name);

}  // namespace plait
