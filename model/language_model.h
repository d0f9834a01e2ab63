// LanguageModel: embedding, block stack, final norm, head. Jamba and Llama-2 families from one
// shape. Parameters live in a ParameterSharder made from Units(); every call takes it. Units: 0 the
// embedding, then one per block, last the final norm with lm_head (without it where the embedding
// is tied: the head then uses unit 0, which stays gathered).
//
// The pipeline axis deals the model out in parts (parallel/pipeline_schedule.h): neighbouring
// blocks, the first part with the embedding, the last with the final norm and the head. A stage has
// one or several, its chunks. Between parts travel
//   forward:  the stream as (residual, delta), so that it is added as within a part, and the sums
//             over the blocks so far that the losses are made of
//   backward: the gradient of the stream, and the choices of experts in the whole microbatch, which
//             the balance loss's gradient depends on
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "model/auxiliary_losses.h"
#include "model/block_stack.h"
#include "model/microbatch.h"
#include "model/model_shape.h"
#include "model/rms_norm.h"
#include "model/sequence_layout.h"
#include "model/token_embedding.h"
#include "model/token_log_probability_head.h"
#include "parallel/parameter_sharder.h"
#include "recipes/pipeline_partition.h"

namespace plait {

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

// What a part hands to the next for one microbatch.
struct PartActivations {
  ResidualStream stream;  // [own rows, model_dim]; absent: before the first part, after the last
  Tensor hidden;          // of the last part: the normalised output, [own rows, model_dim]
  AuxiliarySums sums;     // over the blocks so far
};

// What a part hands back.
struct PartGradient {
  Tensor stream;                // of the stream between the parts, [own rows, model_dim]
  std::vector<double> choices;  // [experts], of the microbatch: over all blocks and ranks
};

class LanguageModel {
 public:
  // dtype: of weights and activations, bf16, f32 or f64. Norms, biases, A_log, D and the
  // convolution stay f32 beside bf16.
  // mesh: outlives the model; its axes divide the sizes of the shape (recipes/recipe_validation.h).
  // parts: of the whole pipeline, in their order, as many as a multiple of its stages
  // (recipes/pipeline_partition.h); empty: one part.
  static std::unique_ptr<LanguageModel> Create(const ModelShape& shape, DType dtype,
                                               Recomputation recomputation, const DeviceMesh& mesh,
                                               std::vector<BlockRange> parts = {});

  const ModelShape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  // Of the whole model; those of other stages are marked.
  std::vector<ParameterUnit> Units();
  // Writes every master and compute value anew. Collective.
  absl::Status Initialize(ParameterSharder& sharder, uint64_t seed);

  // Everything the backward of one microbatch reads, of one part.
  struct Saved {
    BlockStack::Saved stack;
    Tensor residual_sum;  // of the final norm
    Tensor inverse_rms;
    // What FinishObservation waits for; before, neither of the next two has it.
    Observation observation;
    ActivationWatch watch;  // has every block of the model; empty in what other parts observe
    AuxiliarySums sums;     // up to and with the part
  };

  // Parts of this stage; chunk c of stage s is part c x stages + s.
  int num_chunks() const { return static_cast<int>(parts_.size()); }
  bool is_first(int chunk) const { return parts_[chunk].is_first; }
  bool is_last(int chunk) const { return parts_[chunk].is_last; }
  // Before the first part.
  PartActivations Beginning() const { return {.sums = AuxiliarySums::Zero(shape_)}; }

  // tokens: of the segment, read by the first part. saved == nullptr keeps nothing and observes
  // nothing. caches: one per block of the model, for cached generation by the only part. What the
  // last part observed is left to FinishObservation; before, the host waits for none of it.
  absl::StatusOr<PartActivations> ForwardPart(Execution& execution, ParameterSharder& sharder,
                                              int chunk, const Tensor& tokens,
                                              const SequenceLayout& layout, PartActivations input,
                                              std::vector<BlockCache>* caches, Saved* saved);
  // The host waits for what ForwardPart measured; without effect the second time.
  absl::Status FinishObservation(const SequenceLayout& layout, Saved& saved) const {
    return saved.observation.Finish(shape_, layout, saved.sums, saved.watch);
  }
  // The choices of experts in the microbatch: those of the last part's sums, over all ranks that
  // hold a part of it. Collective over them.
  absl::StatusOr<std::vector<double>> MicrobatchChoices(const AuxiliarySums& sums) const;
  // Before the head's backward in the last part: its gradients may be added to from here on.
  absl::Status PrepareHead(Execution& execution, ParameterSharder& sharder);
  // gradient: of the stream after the part; for the last part of its hidden. Returns that of the
  // stream before it, absent for the first part. Adds to every gradient of the part's parameters
  // and starts their reduction.
  absl::StatusOr<Tensor> BackwardPart(Execution& execution, ParameterSharder& sharder, int chunk,
                                      const Microbatch& microbatch,
                                      const AuxiliaryLosses& auxiliary, Tensor gradient,
                                      Saved& saved);

  // A model of one part. Returns the normalised output of the last block, [own rows, model_dim].
  // saved == nullptr keeps nothing.
  absl::StatusOr<Tensor> Forward(Execution& execution, ParameterSharder& sharder,
                                 const Tensor& tokens, const SequenceLayout& layout,
                                 std::vector<BlockCache>* caches, Saved* saved);
  // With FinishObservation. Collective over the ranks of the microbatch.
  absl::StatusOr<AuxiliaryLosses> Auxiliary(Execution& execution, const SequenceLayout& layout,
                                            Saved& saved, const StepCounts& counts) const;
  // dhidden: gradient of Forward's result. Adds to every parameter's gradient and starts their
  // reduction.
  absl::Status Backward(Execution& execution, ParameterSharder& sharder,
                        const Microbatch& microbatch, const AuxiliaryLosses& auxiliary,
                        const Tensor& dhidden, Saved& saved);
  TokenLogProbabilityHead& head() { return head_; }

  // Of the last part, after PrepareHead: the gradient of LanguageModelLoss, and what that is made
  // of, to be waited for when the device has more to do. Adds to the head's gradients.
  struct HeadLoss {
    HostCopy log_probability;  // f32 or f64 [tokens of the segment]
    Tensor dhidden;            // [own rows, model_dim]
  };
  absl::StatusOr<HeadLoss> HeadLossAndGradient(Execution& execution, const Tensor& hidden,
                                               const Microbatch& microbatch,
                                               const StepCounts& counts);
  // sum_t weight[t] x -log p(target[t]) / counts.weight_sum, of this rank.
  double LanguageModelLoss(const Microbatch& microbatch, const Tensor& log_probability,
                           const StepCounts& counts) const;
  // log p(target[t]) by the last part, f32 or f64 [tokens of the segment]; the same on every tensor
  // rank. No gradient follows.
  absl::StatusOr<Tensor> HeadLogProbabilities(Execution& execution, ParameterSharder& sharder,
                                              const Tensor& hidden, const Microbatch& microbatch);

  // All below: of a model of one part.
  // Forward and backward of the language-model loss with the auxiliary losses.
  absl::StatusOr<MicrobatchLosses> LossAndGradient(Execution& execution, ParameterSharder& sharder,
                                                   const Microbatch& microbatch,
                                                   const StepCounts& counts);
  // log p(target[t]). No gradient.
  absl::StatusOr<Tensor> LogProbabilities(Execution& execution, ParameterSharder& sharder,
                                          const Microbatch& microbatch);
  // The losses alone, without a gradient.
  absl::StatusOr<MicrobatchLosses> Losses(Execution& execution, ParameterSharder& sharder,
                                          const Microbatch& microbatch, const StepCounts& counts);

 private:
  struct Part {
    BlockStack stack;
    int64_t first_block = 0;
    bool is_first = false;  // of the model
    bool is_last = false;
  };

  LanguageModel(const ModelShape& shape, DType dtype, Recomputation recomputation,
                const DeviceMesh& mesh, std::vector<BlockRange> parts);

  int head_unit() const { return static_cast<int>(blocks_.size()) + 1; }
  Parameter& head_weight();
  ActivationWatch EmptyWatch() const;
  absl::StatusOr<RowStatisticsPair> StatisticsOf(Execution& execution, const Tensor& rows) const;
  absl::Status ObservePart(Execution& execution, const Part& part, const SequenceLayout& layout,
                           const RowStatisticsPair& last_output, Saved& saved) const;

  const DeviceMesh& mesh_;
  ModelShape shape_;
  DType dtype_;
  TokenEmbedding embedding_;
  std::vector<std::unique_ptr<Block>> blocks_;  // of the whole model; others' hold no memory
  std::vector<Part> parts_;                     // of this stage
  RmsNorm final_norm_;
  LayerParameter lm_head_;  // shape of rank 0 where tied
  TokenLogProbabilityHead head_;
};

}  // namespace plait
