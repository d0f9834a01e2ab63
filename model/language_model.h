// LanguageModel: embedding, block stack, final norm, head. Jamba and Llama-2 families from one
// shape. Parameters live in a ParameterSharder made from Units(); every call takes it. Units: 0 the
// embedding, then one per block, last the final norm with lm_head (without it where the embedding
// is tied: the head then uses unit 0, which stays gathered).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "model/auxiliary_losses.h"
#include "model/block_stack.h"
#include "model/model_shape.h"
#include "model/rms_norm.h"
#include "model/sequence_layout.h"
#include "model/token_embedding.h"
#include "model/token_log_probability_head.h"
#include "parallel/parameter_sharder.h"

namespace plait {

// One microbatch, as the model reads it.
struct Microbatch {
  // Of this rank's segment, [tokens].
  Tensor tokens;        // i32; negative: padding
  Tensor targets;       // i32; negative only where the weight is 0
  Tensor token_weight;  // f32 or f64
  SequenceLayout layout;

  // Of the whole microbatch; part: which of it this rank works on. dtype: the model's compute
  // dtype. InvalidArgument where sizes or offsets do not agree.
  static absl::StatusOr<Microbatch> Create(const Tensor& tokens, const Tensor& targets,
                                           const Tensor& token_weight,
                                           const Tensor& document_offsets, DType dtype,
                                           const TokenPart& part = {});
};

// Shares of the step's losses from one microbatch and rank: summed over the microbatches of all
// ranks they are the step's.
struct MicrobatchLosses {
  double language_model = 0;
  double balance = 0;
  double z = 0;
  double activation = 0;
  ActivationWatch watch;
  Tensor log_probability;  // f32 or f64 [tokens of the segment]

  double total() const { return language_model + balance + z + activation; }
};

class LanguageModel {
 public:
  // dtype: of weights and activations, bf16, f32 or f64. Norms, biases, A_log, D and the
  // convolution stay f32 beside bf16.
  // mesh: outlives the model; its axes divide the sizes of the shape (recipes/recipe_validation.h).
  static std::unique_ptr<LanguageModel> Create(const ModelShape& shape, DType dtype,
                                               Recomputation recomputation, const DeviceMesh& mesh);

  const ModelShape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  std::vector<ParameterUnit> Units();
  // Writes every master and compute value anew. Collective.
  absl::Status Initialize(ParameterSharder& sharder, uint64_t seed);

  // Everything the backward of one microbatch reads.
  struct Saved {
    BlockStack::Saved stack;
    Tensor residual_sum;  // of the final norm
    Tensor inverse_rms;
    std::vector<RowStatisticsPair>
        residual_statistics;  // per block, of the stream after it; empty if not wanted
  };

  // Returns the normalised output of the last block, [own rows, model_dim]. saved == nullptr keeps
  // nothing.
  absl::StatusOr<Tensor> Forward(Execution& execution, ParameterSharder& sharder,
                                 const Tensor& tokens, const SequenceLayout& layout,
                                 std::vector<BlockCache>* caches, Saved* saved);
  // Collective over the ranks of the microbatch.
  absl::StatusOr<AuxiliaryLosses> Auxiliary(const SequenceLayout& layout, const Saved& saved,
                                            const StepCounts& counts) const;
  // dhidden: gradient of Forward's result. Adds to every parameter's gradient and starts their
  // reduction.
  absl::Status Backward(Execution& execution, ParameterSharder& sharder,
                        const Microbatch& microbatch, const AuxiliaryLosses& auxiliary,
                        const Tensor& dhidden, Saved& saved);
  TokenLogProbabilityHead& head() { return head_; }

  // Forward and backward of the language-model loss, sum_t weight[t] x -log p(target[t]) /
  // counts.weight_sum, with the auxiliary losses.
  absl::StatusOr<MicrobatchLosses> LossAndGradient(Execution& execution, ParameterSharder& sharder,
                                                   const Microbatch& microbatch,
                                                   const StepCounts& counts);
  // log p(target[t]), f32 or f64 [tokens of the segment]; the same on every tensor rank. No
  // gradient.
  absl::StatusOr<Tensor> LogProbabilities(Execution& execution, ParameterSharder& sharder,
                                          const Microbatch& microbatch);
  // The losses alone, without a gradient.
  absl::StatusOr<MicrobatchLosses> Losses(Execution& execution, ParameterSharder& sharder,
                                          const Microbatch& microbatch, const StepCounts& counts);

 private:
  LanguageModel(const ModelShape& shape, DType dtype, Recomputation recomputation,
                const DeviceMesh& mesh);

  double OwnLanguageModelLoss(const Microbatch& microbatch, const Tensor& log_probability,
                              const StepCounts& counts) const;
  int head_unit() const { return stack_.size() + 1; }
  Parameter& head_weight();
  absl::Status ReshardAfterForward(Execution& execution, ParameterSharder& sharder);
  absl::StatusOr<Saved> ForwardForLoss(Execution& execution, ParameterSharder& sharder,
                                       const Microbatch& microbatch, Tensor* hidden);

  const DeviceMesh& mesh_;
  ModelShape shape_;
  DType dtype_;
  TokenEmbedding embedding_;
  BlockStack stack_;
  RmsNorm final_norm_;
  LayerParameter lm_head_;  // shape of rank 0 where tied
  TokenLogProbabilityHead head_;
};

}  // namespace plait
