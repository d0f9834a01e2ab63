// Mixture of experts, dropless: x + sum over the chosen experts of p[e] * expert_e(y), y = rms(x),
// p = softmax over all experts of the router's f32 logits, the largest experts_per_token chosen,
// not renormalised. Each expert is a SwiGLU feed-forward (expert_feed_forward.h). Tokens are sorted
// by expert, experts run as grouped products over exactly their rows, and each token sums its rows
// in the order of its choices. Experts are dealt, whole, over the ranks of mesh.experts(), each of
// which routes its own tokens; with one such rank no row is copied, with several they travel
// (dealt_experts.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/block.h"
#include "model/dealt_experts.h"
#include "model/expert_feed_forward.h"
#include "model/linear.h"
#include "model/model_shape.h"
#include "model/pre_norm.h"
#include "parallel/device_mesh.h"
#include "parallel/expert_exchange.h"

namespace plait {

class MixtureOfExpertsBlock : public Block {
 public:
  // mesh: outlives the block; the ranks of its experts() divide shape.experts.
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
    Tensor gate_up;                              // [rows, 2 x hidden_dim], of experts on one rank
    std::vector<DealtExperts::SavedWave> waves;  // of dealt ones
    Tensor expert_rows;  // [rows, model_dim], weighted outputs; kept only where the activation loss
                         // needs them
  };

  absl::StatusOr<Routing> Route(Execution& execution, const Tensor& y) const;
  // Sorts the choices of tokens [begin, end) by expert, as rows from begin x experts_per_token on.
  absl::Status Sort(Execution& execution, int64_t begin, int64_t end, Tensor& offsets,
                    Routing& routing) const;
  // The router weight of each sorted row, [rows].
  absl::StatusOr<Tensor> RowWeights(Execution& execution, const Routing& routing) const;
  // Statistics of the weighted outputs `rows`, as those of rows [first_row, ...).
  absl::Status OutputStatistics(Execution& execution, int64_t first_row, ConstMatrixView rows,
                                RowStatisticsPair& statistics) const;
  // Keeps what the losses need of the weighted outputs of rows [first_row, ...).
  absl::Status TakeOutput(Execution& execution, int64_t first_row, const Tensor& rows,
                          const Tensor& row_weights, bool observe, ExpertsSaved& keep) const;
  absl::Status ForwardExperts(Execution& execution, const Tensor& y, const Routing& routing,
                              const Tensor& row_weights, const DealtExperts::TakeRows& take,
                              Tensor& delta, ExpertsSaved* keep);
  absl::StatusOr<Tensor> OutputScale(Execution& execution, const SequenceLayout& layout,
                                     const Routing& routing, const Tensor& row_weights,
                                     int64_t first_row, int64_t rows) const;
  absl::StatusOr<Tensor> WithoutOutputLoss(Execution& execution,
                                           const BlockBackwardContext& context,
                                           const Routing& routing, const Tensor& gradients) const;
  // Gradient of the weighted outputs of rows [first_row, ...): dout of each one's token, and the
  // activation loss on expert outputs.
  absl::Status RowGradients(Execution& execution, const BlockBackwardContext& context,
                            const Tensor& dout, const ExpertsSaved& saved,
                            const Tensor& row_weights, int64_t first_row, MatrixView drows) const;
  absl::Status BackwardExperts(Execution& execution, const Tensor& y, const Tensor& row_weights,
                               const DealtExperts::GiveRows& give, const ExpertsSaved& saved,
                               Tensor& dy, Tensor& drow_weights);

  std::string name_;
  bool keep_output_, keep_expert_rows_;
  int64_t experts_, experts_per_token_, wave_tokens_;
  PreNorm norm_;
  Linear router_;
  bool dealt_;  // over several ranks
  ExpertExchange exchange_;
  ExpertFeedForward feed_forward_;
  DealtExperts dealt_experts_;
};

}  // namespace plait
