// Mixture of experts, dropless: x + sum over the chosen experts of p[e] * expert_e(y), y = rms(x),
// p = softmax over all experts of the router's f32 logits, the largest experts_per_token chosen,
// not renormalised. Each expert is a SwiGLU feed-forward; their weights are one tensor each:
// gate_up_proj [experts, 2 x hidden, model], down_proj [experts, model, hidden]. Tokens are sorted
// by expert, experts run as grouped products over exactly their rows, and each token sums its rows
// in the order of its choices. The router weight multiplies the input of down_proj (equal, since
// that is linear).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/block.h"
#include "model/linear.h"
#include "model/model_shape.h"
#include "model/pre_norm.h"
#include "parallel/device_mesh.h"

namespace plait {

class MixtureOfExpertsBlock : public Block {
 public:
  MixtureOfExpertsBlock(const ModelShape& shape, const std::string& layer_name, DType dtype,
                        const DeviceMesh& mesh);

  const std::string& name() const override { return name_; }
  std::vector<LayerParameter*> parameters() override;
  const Routing* routing(const Saved& saved) const override;
  absl::Status Forward(Execution& execution, const BlockForwardContext& context,
                       ResidualStream& stream, std::unique_ptr<Saved>* saved) override;
  absl::StatusOr<Tensor> Backward(Execution& execution, const BlockBackwardContext& context,
                                  const Tensor& gradient, const Saved& saved) override;

 private:
  struct ExpertsSaved : Saved {
    PreNorm::Saved norm;
    Routing routing;
    Tensor gate_up;      // [rows, 2 x hidden_dim], in sorted order
    Tensor expert_rows;  // [rows, model_dim], weighted outputs; kept only where the activation loss
                         // needs them
  };

  absl::StatusOr<Routing> Route(Execution& execution, const Tensor& y) const;
  // The router weight of each sorted row, [rows].
  Tensor RowWeights(Execution& execution, const Routing& routing) const;
  // Gradient of each sorted row's weighted output, divided by its router weight: dout of its token,
  // and the activation loss on expert outputs. [rows, model_dim]
  absl::StatusOr<Tensor> RowGradients(Execution& execution, const BlockBackwardContext& context,
                                      const Tensor& dout, const ExpertsSaved& saved) const;

  std::string name_;
  bool keep_output_, keep_expert_rows_;
  int64_t model_dim_, hidden_dim_, experts_, experts_per_token_;
  PreNorm norm_;
  Linear router_;
  LayerParameter gate_up_, down_;
};

}  // namespace plait
