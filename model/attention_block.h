// Attention block: x + o_proj(attention(q_proj(y), k_proj(y), v_proj(y))), y = rms(x). Grouped
// queries, causal, documents apart; rotary position embedding only where the shape has a theta
// (Llama yes, Jamba no). No biases.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/attention_args.h"
#include "model/block.h"
#include "model/context_attention.h"
#include "model/linear.h"
#include "model/model_shape.h"
#include "model/pre_norm.h"
#include "model/tensor_parallel.h"

namespace plait {

class AttentionBlock : public Block {
 public:
  // layer_name: "model.layers.3".
  AttentionBlock(const ModelShape& shape, const std::string& layer_name, DType dtype,
                 const DeviceMesh& mesh);

  const std::string& name() const override { return name_; }
  std::vector<LayerParameter*> parameters() override;
  const Routing* routing(const Saved&) const override { return nullptr; }
  absl::Status Forward(Execution& execution, const BlockForwardContext& context,
                       ResidualStream& stream, std::unique_ptr<Saved>* saved) override;
  absl::StatusOr<Tensor> Backward(Execution& execution, const BlockBackwardContext& context,
                                  const Tensor& gradient, const Saved& saved) override;

 private:
  struct AttentionSaved : Saved {
    PreNorm::Saved norm;
    ContextAttention::Saved attention;  // q, k and v after rotation
    Tensor attended;                    // [tokens, heads x head_dim]
  };

  AttentionLayout Heads() const;  // sizes and scale
  absl::StatusOr<Tensor> AttendToCache(Execution& execution, BlockCache& cache, const Tensor& q,
                                       const Tensor& k, const Tensor& v) const;
  absl::Status Rotate(Execution& execution, const SequenceLayout& layout, Tensor& x, int64_t heads,
                      bool forward) const;

  std::string name_;
  bool keep_output_;
  TensorParallel tensor_;
  int64_t heads_, kv_heads_, head_dim_;  // of this rank
  double rotary_theta_;
  ContextAttention attention_;
  PreNorm norm_;
  Linear query_, key_, value_, output_;
};

}  // namespace plait
